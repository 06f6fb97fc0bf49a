"""What others have: the hub's models and data sets, conversations, documents, models that answer."""
