"""From scores to the layers that control an attribute, with the evidence."""
