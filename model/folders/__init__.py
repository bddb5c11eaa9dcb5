"""What lies on the disk: folders of models and adapters, their weights and their tokenizers."""
