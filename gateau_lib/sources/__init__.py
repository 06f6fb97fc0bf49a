"""What others have: models and data of the hub, documents, models that answer."""
