// Messages of the chat have word joiners where a browser would see markup (APART in chat_tab.py).
// What is copied, by Gradio's button or by hand, has none.
{
  const whole = (text) => text.replaceAll("\u2060", "");
  const { clipboard } = navigator; // there is none where the page is neither local nor encrypted
  if (clipboard) {
    const write = clipboard.writeText.bind(clipboard);
    clipboard.writeText = (text) => write(whole(text));
  }
  document.addEventListener("copy", (event) => {
    const text = String(document.getSelection());
    if (whole(text) === text) return;
    event.clipboardData.setData("text/plain", whole(text));
    event.preventDefault();
  });
}
