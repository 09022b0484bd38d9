"use strict";

const $ = (id) => document.getElementById(id);
let run = null;

// An element with text or elements inside; text never becomes markup.
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

const two = (value) => value.toFixed(2).replace(/^(-?)0\./, "$1.").replace("-", "−");
const exact = (value) => Number(value.toPrecision(3)).toString().replaceAll("-", "−");

async function call(path, body) {
  const answer = await fetch(path, body && {
    method: "POST", headers: {"content-type": "application/json"}, body: JSON.stringify(body)});
  const data = await answer.json().catch(() => ({detail: `${answer.status} ${answer.statusText}`}));
  if (!answer.ok) {
    throw new Error(data.detail);
  }
  return data;
}

// Runs one form's request at a time, and shows what went wrong.
function onSubmit(id, handle) {
  const form = $(id), button = form.querySelector("button");
  const problem = make("p", {class: "problem", role: "alert"});
  form.after(problem);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (button.getAttribute("aria-disabled")) {
      return;  // not `disabled`, which would take the keyboard's focus away
    }
    button.setAttribute("aria-disabled", "true");
    problem.textContent = $("done").textContent = "";
    try {
      await handle(form.elements);
    } catch (error) {
      problem.textContent = error.message;
    }
    button.removeAttribute("aria-disabled");
  });
}

function sentences() {
  const [first, second] = [$("first").value, $("second").value];
  if (!first.trim()) {
    throw new Error("type a sentence");
  }
  return second.trim() ? [first, second] : [first];
}

const taskOf = (name) => run.tasks.find((task) => task.name === name);

// The sentences that a task reads, or an error that says what is missing.
function textsFor(task) {
  const texts = sentences().slice(0, task.sentences);
  if (texts.length < task.sentences) {
    throw new Error(`${task.title} takes two sentences: type the second one above`);
  }
  return texts;
}

// ------------------------------------------------------------------------------------- answers

function bars(numbers) {
  const list = make("dl", {class: "bars"});
  for (const [label, value] of numbers) {
    const bar = make("i");
    bar.style.width = `${100 * value}%`;
    list.append(make("dt", {}, label),
      make("dd", {}, make("span", {class: "bar"}, bar), make("span", {class: "number"}, two(value))));
  }
  return list;
}

function answerCard(task, answer) {
  const card = make("article", {class: "card", "data-task": task.name}, make("h3", {}, task.title));
  if (!answer) {
    card.append(make("p", {class: "note"}, "needs a second sentence"));
  } else if (answer.probabilities) {
    card.append(make("p", {class: "label"}, String(answer.label)), bars(Object.entries(answer.probabilities)));
  } else {
    const [low, high] = task.range;
    const ends = task.labels.length ? `${low} ${task.labels[0]}, \u200e${high} ${task.labels[1]}`
      : `from ${low} to ${high}`;
    const bar = make("i");
    bar.style.width = `${100 * (answer.label - low) / (high - low)}%`;
    card.append(make("p", {class: "label"}, answer.label.toFixed(2)), make("div", {class: "bar"}, bar),
      make("p", {class: "note"}, ends));
  }
  return card;
}

async function ask() {
  const texts = sentences();
  const inputs = texts.length > 1 ? [[texts[0]], texts] : [texts];
  const {answers, cut} = await call("api/predict", {inputs});
  const found = Object.assign({}, ...answers);
  $("answers").replaceChildren(...run.tasks.map((task) => answerCard(task, found[task.name])));
  if (cut) {
    $("answers").append(make("p", {class: "note"}, `The input was cut at ${run.max_length} tokens.`));
  }
}

// --------------------------------------------------------------------------------------- words

async function showWords(fields) {
  const task = taskOf(fields.task.value);
  const texts = textsFor(task);
  const {label, words} = await call("api/words", {task: task.name, texts, method: fields.method.value});
  const most = Math.max(...words.map((word) => Math.abs(word.weight)), 1e-9);
  const lines = texts.map(() => make("p", {class: "sentence", dir: "auto"}));
  for (const word of words) {
    const span = make("span", {class: "word"}, word.text, " ", make("small", {}, two(word.weight)));
    const side = word.weight < 0 ? "--against" : "--for";
    span.style.background = `rgb(var(${side}) / ${(0.55 * Math.abs(word.weight) / most).toFixed(3)})`;
    lines[word.sentence].append(span, " ");
  }
  const what = task.classes ? `log p(${label})` : "the number";
  $("words-result").replaceChildren(...lines, make("p", {class: "note"},
    `By how much each word raises ${what}: blue raises it, orange lowers it.`));
}

// A screen reader says that there are tables. It does not read all of them aloud.
function showTables(id, note, tables) {
  $(id).replaceChildren(make("p", {class: "note"}, note), ...tables);
  $("done").textContent = "The numbers are below.";
}

// ----------------------------------------------------------------------------------- attention

async function showAttention(fields) {
  const task = taskOf(fields.task.value);
  const maps = await call("api/attention", {task: task.name, texts: textsFor(task),
    layer: Number(fields.layer.value), head: Number(fields.head.value)});
  const tables = maps.map(({pieces, weights}) => {
    const rows = weights.map((row, from) => {
      const cells = row.map((value, to) => {
        const cell = make("td", {title: `${pieces[from]} looks at ${pieces[to]}: ${two(value)}`},
          make("span", {class: "unseen"}, two(value)));  // for screen readers
        cell.style.background = `rgb(var(--for) / ${value.toFixed(3)})`;
        return cell;
      });
      return make("tr", {}, make("th", {scope: "row"}, pieces[from]), ...cells);
    });
    const head = make("tr", {}, make("td"), ...pieces.map((piece) => make("th", {scope: "col"}, piece)));
    return make("div", {class: "scroll", tabindex: "0", role: "region", "aria-label": "attention weights"},
      make("table", {class: "map"}, make("thead", {}, head), make("tbody", {}, ...rows)));
  });
  showTables("attention-result",
    "Each row is a piece; the darker a column, the more the row looks at it. A row sums to 1.", tables);
}

// ----------------------------------------------------------------------------------- gradients

function table(caption, columns, rows) {
  const head = make("tr", {}, make("td"), ...columns.map((name) => make("th", {scope: "col"}, name)));
  const body = rows.map(([name, ...values]) => make("tr", {}, make("th", {scope: "row"}, name),
    ...values.map((value) => make("td", {}, value))));
  return make("div", {class: "scroll", tabindex: "0", role: "region", "aria-label": caption},
    make("table", {}, make("caption", {}, caption), make("thead", {}, head), make("tbody", {}, ...body)));
}

async function showGradients(fields) {
  const answers = {};
  for (const task of run.tasks) {
    const value = fields[`answer-${task.name}`].value;
    if (value) {
      answers[task.name] = value;
    }
  }
  const names = Object.keys(answers);
  if (!names.length) {
    throw new Error("choose a right answer");
  }
  const most = Math.max(...names.map((name) => taskOf(name).sentences));
  const texts = textsFor(run.tasks.find((task) => answers[task.name] && task.sentences === most));
  const found = await call("api/gradients", {texts, answers});
  const tables = [table("loss and length of each task's gradient", ["loss", "norm"],
    found.tasks.map((name, i) => [name, exact(found.losses[i]), exact(found.norms[i])]))];
  if (names.length > 1) {
    tables.push(table("cosines: below 0 is a conflict", found.tasks,
      found.tasks.map((name, i) => [name, ...found.cosines[i].map(two)])));
    const surgery = Object.entries(found.surgery);
    tables.push(table("surgery: weight of each task's gradient, and length of their sum", [...found.tasks, "norm"],
      surgery.map(([method, to]) => [method, ...to.weights.map(exact), exact(to.norm)])));
    tables.push(table("change of each task's loss, per unit of learning rate", found.tasks,
      surgery.map(([method, to]) => [method, ...to.changes.map(exact)])));
  }
  showTables("gradients-result", "To first order, without dropout, and for this one input.", tables);
}

function rightAnswer(task) {
  const name = `answer-${task.name}`;
  if (!task.classes) {
    const [min, max] = task.range;
    return make("label", {}, `${task.title} `, make("input", {name, type: "number", step: "any", min, max,
      placeholder: `${min} to ${max}`}));
  }
  const options = task.labels.map((label) => make("option", {value: label}, label));
  return make("label", {}, `${task.title} `,
    make("select", {name}, make("option", {value: ""}, "not given"), ...options));
}

// --------------------------------------------------------------------------------------- start

async function start() {
  run = await call("api/run");
  document.title = `${run.name}: minbert`;
  $("name").textContent = run.name;
  $("about").textContent = `${run.tasks.map((task) => task.title).join(", ")}; --arch ${run.arch}, minbert ${run.version}`;
  $("sample").hidden = !run.sample_tasks.length;
  $("sample_tasks").textContent = run.sample_tasks.map((name) => taskOf(name).title).join(", ");
  $("first").value ||= run.tasks[0].example[0];
  $("pair").hidden = run.tasks.every((task) => task.sentences === 1);
  for (const select of document.querySelectorAll("select[name=task]")) {
    select.append(...run.tasks.map((task) => make("option", {value: task.name}, task.title)));
  }
  for (const [name, count] of [["layer", run.layers], ["head", run.heads]]) {
    $("attention").elements[name].append(...Array.from({length: count}, (_, i) => make("option", {}, i)));
  }
  $("right-answers").append(...run.tasks.map(rightAnswer));
  for (const id of ["words", "attention", "gradients"]) {
    $(`${id}-section`).hidden = !run.can_look_inside;
  }

  onSubmit("ask", ask);
  onSubmit("words", showWords);
  onSubmit("attention", showAttention);
  onSubmit("gradients", showGradients);
  $("ask").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      $("ask").requestSubmit();
    }
  });
}

start().catch((error) => { $("problem").textContent = error.message; });
