"use strict";
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const one = (selector, root = document) => root.querySelector(selector);

// Light and dark: as the system is, until asked otherwise.
one("#theme").onclick = () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
};

// One of several: buttons with data-choose="GROUP" and data-value show the elements with data-of="GROUP" and that value.
const choose = (group, value) => {
  for (const b of all("[data-choose]")) if (b.dataset.choose === group) b.setAttribute("aria-pressed", b.dataset.value === value);
  for (const part of all("[data-of]")) if (part.dataset.of === group) part.hidden = part.dataset.value !== value;
};
for (const button of all("[data-choose]")) button.onclick = () => choose(button.dataset.choose, button.dataset.value);

// Tables sorted by a column: numbers by data-v, largest first; text from A.
for (const head of all("table.sort th")) head.onclick = () => {
  const table = head.closest("table"), body = one("tbody", table), column = [...head.parentNode.children].indexOf(head);
  const value = row => { const cell = row.children[column]; return cell.dataset.v ?? cell.textContent; };
  const rows = [...body.children], numeric = rows.every(row => value(row) === "" || isFinite(value(row)));
  const dir = head.dataset.dir ? (head.dataset.dir === "asc" ? "desc" : "asc") : (numeric ? "desc" : "asc");
  for (const other of head.parentNode.children) delete other.dataset.dir;
  head.dataset.dir = dir;
  const order = (a, b) => numeric ? (a === "" ? -Infinity : +a) - (b === "" ? -Infinity : +b) : a.localeCompare(b);
  rows.sort((a, b) => order(value(a), value(b)) * (dir === "asc" ? 1 : -1));
  body.append(...rows);
};

// What is under the pointer.
const tip = one("#tip");
const say = (event, text) => {
  tip.textContent = text;
  tip.style.visibility = text ? "visible" : "hidden";
  if (!text) return;
  const { width, height } = tip.getBoundingClientRect();
  tip.style.left = Math.min(event.clientX + 14, innerWidth - width - 8) + "px";
  tip.style.top = Math.max(event.clientY - height - 10, 8) + "px";
};
for (const element of all("[data-tip]")) {
  element.onpointermove = event => say(event, element.dataset.tip);
  element.onpointerleave = event => say(event, "");
}
for (const svg of all("svg[data-plot]")) {
  const { x, y, box: [left, top, width, height], unit, series } = JSON.parse(svg.dataset.plot);
  const cursor = one(".cursor", svg);
  svg.onpointermove = event => {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    const wanted = x[0] + (at.x - left) / width * (x[1] - x[0]);
    const near = series.map(s => s.points.reduce((a, b) => Math.abs(b[0] - wanted) < Math.abs(a[0] - wanted) ? b : a));
    const step = near.reduce((a, b) => Math.abs(b[0] - wanted) < Math.abs(a[0] - wanted) ? b : a)[0];
    const place = left + (step - x[0]) / (x[1] - x[0] || 1) * width;
    cursor.setAttribute("x1", place); cursor.setAttribute("x2", place); cursor.style.visibility = "visible";
    const format = v => unit === "%" ? (100 * v).toFixed(2) + " %" : v.toPrecision(4) + (unit ? " " + unit : "");
    say(event, [`step ${Math.round(step)}`, ...series.map((s, i) => `${s.name}: ${format(near[i][1])}`)].join("\n"));
  };
  svg.onpointerleave = event => { cursor.style.visibility = "hidden"; say(event, ""); };
}

// A picture alone: wheel zooms, dragging moves, arrows go to the sample's next picture or the next sample.
const box = one("#box"), boxed = one("img", box), caption = one("p", box);
let shown = null, scale = 1, offset = [0, 0];
const place = () => { boxed.style.transform = `translate(${offset[0]}px, ${offset[1]}px) scale(${scale})`; };
const fit = () => {
  scale = Math.min(innerWidth / boxed.naturalWidth, (innerHeight - 44) / boxed.naturalHeight);
  offset = [(innerWidth - boxed.naturalWidth * scale) / 2, (innerHeight - 44 - boxed.naturalHeight * scale) / 2];
  place();
};
const show = (image, keep) => {
  shown = image;
  const before = boxed.naturalWidth;
  boxed.onload = () => {
    if (!keep) return fit();
    scale *= before / boxed.naturalWidth; // the same part of a picture of another size
    place();
  };
  boxed.src = image.src;
  caption.textContent = `${image.alt}   (wheel: zoom, drag: move, ← →: pictures of this sample, ↑ ↓: samples, Esc)`;
  box.classList.add("open");
};
for (const image of all(".strip img")) image.onclick = () => show(image, false);
box.onclick = event => { if (event.target === box) box.classList.remove("open"); };
box.onwheel = event => {
  event.preventDefault();
  const factor = Math.exp(-event.deltaY / 400);
  offset = [event.clientX - (event.clientX - offset[0]) * factor, event.clientY - (event.clientY - offset[1]) * factor];
  scale *= factor; place();
};
boxed.draggable = false;
boxed.onpointerdown = event => boxed.setPointerCapture(event.pointerId);
boxed.onpointermove = event => { if (event.buttons) { offset = [offset[0] + event.movementX, offset[1] + event.movementY]; place(); } };
addEventListener("keydown", event => {
  if (!box.classList.contains("open")) return;
  if (event.key === "Escape") return box.classList.remove("open");
  const strip = shown.closest(".strip"), images = all("img", strip);
  const strips = all(".strip", shown.closest("section")).filter(s => one("img", s) && s.offsetParent);
  const [dx, dy] = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key] ?? [0, 0];
  if (!dx && !dy) return;
  event.preventDefault();
  const column = (images.indexOf(shown) + dx + images.length) % images.length;
  const row = (strips.indexOf(strip) + dy + strips.length) % strips.length;
  const there = all("img", strips[row]);
  show(there[Math.min(column, there.length - 1)], !dy);
});

// What the fusion does: sampling points of each modality over its picture, coloured by the modalities' weights.
const colours = [[242, 120, 30], [40, 120, 220], [40, 160, 90], [170, 70, 190], [220, 50, 80], [120, 120, 120]];
for (const part of all("[data-fusion]")) {
  const fusion = JSON.parse(one("script[type='application/json']", part).textContent);
  const names = Object.keys(fusion.modalities);
  const state = { sample: 0, stage: Math.min(...fusion.samples.map(s => s.stages.length)) - 1 };
  const draw = () => {
    const stage = fusion.samples[state.sample].stages[state.stage];
    for (const canvas of all("canvas", part)) {
      const points = stage.points[canvas.dataset.modality];
      const image = document.getElementById(fusion.samples[state.sample].pictures[canvas.dataset.modality]);
      const ratio = image.naturalHeight / image.naturalWidth, width = 1000, height = Math.round(width * ratio);
      canvas.width = width; canvas.height = height;
      const pen = canvas.getContext("2d");
      pen.imageSmoothingEnabled = image.naturalWidth > 300;
      pen.filter = "grayscale(.85) brightness(.8)";
      pen.drawImage(image, 0, 0, width, height);
      pen.filter = "none";
      const each = points.weights[names[0]].length;
      const radius = Math.max(3, Math.min(13, 0.16 * Math.sqrt(width * height / each)));
      pen.lineWidth = Math.max(1, radius / 5);
      for (let i = 0; i < points.x.length; i++) {
        const weights = names.map(name => points.weights[name][i % each] / 1000);
        pen.beginPath();
        pen.arc(points.x[i] / 10000 * width, points.y[i] / 10000 * height, radius, 0, 2 * Math.PI);
        pen.fillStyle = mix(weights);
        pen.fill();
        pen.strokeStyle = "rgba(0, 0, 0, .65)";
        pen.stroke();
      }
    }
    one(".note", part).textContent = `stage ${state.stage + 1}: map of ${stage.map[0]} × ${stage.map[1]}, ` +
      `${stage.points[names[0]].x.length} points per modality in ${stage.groups} group${stage.groups > 1 ? "s" : ""}, ` +
      `gain of the attention branch ${stage.gain.attention.toPrecision(2)}, of the fused features ${stage.gain.features.toPrecision(2)}`;
    for (const b of all("button", part)) b.setAttribute("aria-pressed", +b.dataset.index === state[b.dataset.key]);
  };
  // Pale where the modalities count alike, a modality's own colour where it counts alone.
  const mix = weights => {
    const top = Math.max(...weights), even = 1 / weights.length;
    const sure = weights.length > 1 ? (top - even) / (1 - even) : 1;
    const [r, g, b] = [0, 1, 2].map(c => {
      const pure = weights.reduce((sum, w, i) => sum + w ** 2 * colours[i % colours.length][c], 0) / weights.reduce((sum, w) => sum + w ** 2, 0);
      return Math.round(245 + (pure - 245) * Math.min(1, 0.08 + 1.25 * sure));
    });
    return `rgb(${r} ${g} ${b})`;
  };
  const ramp = one(".ramp", part);
  if (ramp) ramp.style.background = `linear-gradient(90deg, ${[0, .25, .5, .75, 1].map(w => mix([1 - w, w])).join(",")})`;
  for (const b of all("button", part)) b.onclick = () => { state[b.dataset.key] = +b.dataset.index; draw(); };
  const pictures = fusion.samples.flatMap(s => Object.values(s.pictures)).map(id => document.getElementById(id).decode());
  Promise.all(pictures).then(draw);
}
