// Feeds the denoising view of the page. A value is {id, traces, latest, whole}: traces without
// steps, the latest steps of each with what their tokens say, and in the end the whole traces.
const view = DenoisingView(element.querySelector(".denoising"));
let id = null, counts = [], isWhole = false;

function open(traces) {
  if (traces.length === 2) view.compare(...traces);
  else view.show(traces[0]);
}

function take({ id: of, traces, latest, whole }) {
  if (of !== id) {
    open(whole || traces);
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
  latest.forEach(({ from, steps, pieces }, pane) => {
    const known = counts[pane];
    if (from > known || from + steps.length <= known) return; // nothing new, or too much was missed
    view.append(steps.slice(known - from), pieces, pane);
    counts[pane] = from + steps.length;
  });
}

watch("value", () => {
  element.querySelector(".empty").hidden = Boolean(props.value);
  element.querySelector(".denoising").hidden = !props.value;
  if (props.value) take(props.value);
});
