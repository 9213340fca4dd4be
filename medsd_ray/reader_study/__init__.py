"""Readers rate real and generated images, blinded."""
