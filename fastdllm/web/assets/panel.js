// Feeds the denoising view of the page. A value is {id, traces, latest, whole, caption}: traces
// without steps, the latest steps of each with what their tokens say, and in the end the whole
// traces, each as JSON; a caption above the view, or none.
const view = DenoisingView(element.querySelector(".denoising"));
let id = null, counts = [], isWhole = false;

function open(traces) {
  if (traces.length === 2) view.compare(...traces);
  else view.show(traces[0]);
}

const parsed = (texts) => texts?.map((text) => JSON.parse(text));

function take({ id: of, traces, latest, whole: texts }) {
  if (of === id && isWhole) return;
  const whole = parsed(texts);
  if (of !== id) {
    open(whole || parsed(traces));
    counts = latest.map(() => 0);
    id = of;
    isWhole = Boolean(whole);
  }
  if (isWhole) return;
  if (whole) {
    // Where the reader has stepped to stays.
    const { step } = view.state, follows = step === view.last;
    open(whole);
    if (!follows) view.goto(step);
    isWhole = true;
    return;
  }
  parsed(latest).forEach(({ from, steps, pieces }, pane) => {
    const known = counts[pane];
    if (from > known || from + steps.length <= known) return; // nothing new, or too much was missed
    view.append(steps.slice(known - from), pieces, pane);
    counts[pane] = from + steps.length;
  });
}

function show() {
  const { value } = props, caption = element.querySelector(".caption");
  element.querySelector(".empty").hidden = Boolean(value);
  element.querySelector(".denoising").hidden = !value;
  caption.textContent = value?.caption ?? "";
  caption.hidden = !value?.caption;
  if (value) take(value);
}

show();
watch("value", show);
