"""What scores pictures against texts, and what names what a picture shows."""
