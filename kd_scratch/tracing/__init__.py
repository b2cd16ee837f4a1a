"""The stages of `trace`: one example followed from its file to the loss and the decision."""
