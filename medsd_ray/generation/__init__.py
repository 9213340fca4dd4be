"""Images from prompts, edits of images, and images to latents."""
