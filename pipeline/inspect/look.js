// Shows the samples of the chosen stage, reason, language and scores; without a script all are shown.
const form = document.querySelector("form");
const samples = [...document.querySelectorAll("article")];

function choose() {
  const { stage, reason, language, least, most } = Object.fromEntries(new FormData(form));
  let count = 0;
  for (const sample of samples) {
    const { score, ...own } = sample.dataset;
    const inside = !(least || most) || (score !== "" && +score >= +(least || -Infinity) && +score <= +(most || Infinity));
    const shown = inside && [[stage, own.stage], [reason, own.reason], [language, own.language]]
      .every(([wanted, value]) => !wanted || wanted === value);
    sample.hidden = !shown;
    count += shown;
  }
  document.getElementById("count").textContent = `${count} of ${samples.length}`;
}

form.hidden = false;
form.addEventListener("input", choose);
form.addEventListener("reset", () => setTimeout(choose));
form.addEventListener("submit", (event) => event.preventDefault());
choose();
