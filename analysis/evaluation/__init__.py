"""What a rule costs a model: figures per window of text, their intervals, and the page that shows them. No torch here."""
