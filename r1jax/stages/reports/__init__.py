"""Tables, figures and pages from what the stages left in their folders."""
