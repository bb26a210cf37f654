"""What several sweeps say about FaceForensics++."""

FOUR = ("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures")  # no paper here uses its fifth, FaceShifter
