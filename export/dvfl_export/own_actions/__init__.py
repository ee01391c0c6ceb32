"""From folders of clips to a verified model file: dvfl-train FOLDER -o FILE.onnx."""
