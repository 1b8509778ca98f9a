"""The endpoint: one model for programs, over HTTP in the OpenAI shape. Decodes nothing itself.

The web page mounts on the same app. Needs the packages of the extra `chat`.
"""
