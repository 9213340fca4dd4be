"""What lies in a run's output: one owner of every file name in it, and who reads it. Whoever writes it is in
the room whose work it is, such as training.
"""
