"""The arguments that commands share."""
