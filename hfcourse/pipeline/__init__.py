"""What a recipe is made of: flags in, a trained and saved model out."""
