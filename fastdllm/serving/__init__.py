"""What stands between front ends and the decoder: conversations, and one model that serves many.

Knows no screen, page or network.
"""
