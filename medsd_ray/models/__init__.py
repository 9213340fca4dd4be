"""Stable Diffusion's parts: found, loaded, adapted, saved, exported."""
