"""Several servers on one store: which of them are alive, and the events between them."""
