"""What Delocate's sweeps have in common."""

# A third of what its small preset trains, in tables of many rows. Equal in most of them, so that they share stages.
SHORT = {
    "model.recover.num_epochs": 5,
    "model.finetune.num_epochs": 2,
    "model.localize.num_epochs": 2,
    "model.localize.steps_per_epoch": 36,
}
