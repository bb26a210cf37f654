"""What Delocate's sweeps have in common."""

# A third of what its small preset trains: many rows in minutes. Equal in all tables, so that they share stages.
SHORT = {
    "model.recover.num_epochs": 8,
    "model.finetune.num_epochs": 3,
    "model.localize.num_epochs": 3,
    "model.localize.steps_per_epoch": 20,
}
