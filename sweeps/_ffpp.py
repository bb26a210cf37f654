"""What several sweeps say about FaceForensics++."""

FOUR = ("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures")  # for rows and columns by manipulation
