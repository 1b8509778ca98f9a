"""The page: chat, the denoising view, answers side by side (Gradio)."""
