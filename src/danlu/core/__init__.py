"""The words that everything else speaks: Clock, Dials, Batch, Outputs, Action, Finding, Journal, Technique."""
