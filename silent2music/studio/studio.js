// The page's own parts: time axis, recorder, controls, player, piano roll, live sound. Nothing is loaded from elsewhere.
// The same file is the audio worklet that takes samples from the microphone.
"use strict";

if (typeof AudioWorkletProcessor !== "undefined") {
  registerProcessor("s2m-microphone", class extends AudioWorkletProcessor {
    process(inputs) {
      if (inputs[0].length) this.port.postMessage(inputs[0][0].slice());
      return true;
    }
  });
} else if (!window.studio) {
  const S = window.studio = { token: "", scene: null, wishes: {}, cursor: 0, seconds: 0, decided: {}, kinds: {} };
  const hearers = {};
  S.on = (name, call) => (hearers[name] ||= []).push(call);
  S.emit = (name) => (hearers[name] || []).forEach((call) => call());
  S.commit = () => {};

  const GUTTER = 36, PROJECT = "s2m-project", LIVE_RATE = 24000;
  const COLOURS = ["#2a9d8f", "#d97706", "#7c6fd6", "#c2507a", "#3b82c4", "#7a8f2b", "#b45f3c", "#5f7f8f"];
  const clamp = (x, low, high) => Math.min(high, Math.max(low, x));
  const url = (what) => `/studio/${S.token}/${what}`;
  const clock = (t) => `${Math.floor(t / 60)}:${(t % 60).toFixed(1).padStart(4, "0")}`;

  // Elements by tag, attributes and children; text is never taken for HTML.
  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (value !== false && value != null) element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...children);
    return element;
  }

  S.mount = (name, element, props, trigger, watch) => {
    const root = element.querySelector(`.s2m-${name}`);
    if (!root || root.dataset.mounted) return;
    root.dataset.mounted = "yes";
    S.kinds[name](root, props, trigger, watch);
  };

  // A canvas as wide as its place, drawn again when place, theme or content change.
  function board(height, label, draw) {
    const canvas = make("canvas", { role: "img", "aria-label": label, style: `height:${height}px` });
    canvas.redraw = () => {
      const width = canvas.clientWidth, scale = window.devicePixelRatio || 1;
      if (!width) return;
      if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
        canvas.width = Math.round(width * scale);
        canvas.height = Math.round(height * scale);
      }
      const style = getComputedStyle(canvas), pen = canvas.getContext("2d");
      const colour = (which) => style.getPropertyValue(`--s2m-${which}`).trim();
      pen.setTransform(scale, 0, 0, scale, 0, 0);
      pen.clearRect(0, 0, width, height);
      pen.font = `11px ${style.fontFamily}`;
      draw(pen, width, height, colour);
    };
    new ResizeObserver(canvas.redraw).observe(canvas);
    new MutationObserver(canvas.redraw).observe(document.body, { attributes: true, attributeFilter: ["class"] });
    canvas.time = (event) => clamp((event.clientX - canvas.getBoundingClientRect().left - GUTTER)
      / Math.max(1, canvas.clientWidth - GUTTER), 0, 1) * S.seconds;
    return canvas;
  }
  const at = (t, width) => GUTTER + (t / Math.max(S.seconds, 1e-9)) * (width - GUTTER);
  function line(pen, x, top, bottom, colour, dash = [], width = 1) {
    pen.strokeStyle = colour;
    pen.lineWidth = width;
    pen.setLineDash(dash);
    pen.beginPath();
    pen.moveTo(x, top);
    pen.lineTo(x, bottom);
    pen.stroke();
    pen.setLineDash([]);
  }
  function seconds(pen, width, y, colour) {
    const wide = (width - GUTTER) / Math.max(S.seconds, 1e-9);
    const step = [0.5, 1, 2, 5, 10, 30, 60, 300, 600].find((s) => s * wide > 55) || 1800;
    pen.fillStyle = colour;
    for (let t = 0; t <= S.seconds - step / 4; t += step) pen.fillText(step < 1 ? t.toFixed(1) : `${t} s`, at(t, width) + 2, y);
  }

  // ---- files in ----

  async function send(file, name, kind, tell) {
    tell(`Sending ${name} ...`);
    try {
      const query = new URLSearchParams({ name, kind });
      const answer = await fetch(url(`upload?${query}`), { method: "POST", body: file });
      const said = await answer.json();
      tell(said.error || "", !!said.error);
      return said.name;
    } catch {
      tell(`${name} could not be sent; is it a file, and is the studio still running?`, true);
      return null;
    }
  }
  function teller() {
    const place = make("p", { class: "news", role: "status" });
    place.tell = (text, wrong = false) => {
      place.textContent = text;
      place.className = wrong ? "wrong" : "news";
    };
    return place;
  }
  function chooser(label, accept, take, extra = {}) {
    const input = make("input", { type: "file", accept, hidden: true, tabindex: -1, "aria-label": label });
    const button = make("button", { type: "button", ...extra, onclick: () => input.click() }, label);
    input.addEventListener("change", () => {
      if (input.files[0]) take(input.files[0]);
      input.value = "";
    });
    return make("span", { class: "chooser" }, button, input);
  }
  function droppable(place, take) {
    place.addEventListener("dragover", (event) => { event.preventDefault(); place.classList.add("over"); });
    place.addEventListener("dragleave", () => place.classList.remove("over"));
    place.addEventListener("drop", (event) => {
      event.preventDefault();
      place.classList.remove("over");
      if (event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
    });
  }

  // What the browser would do to make speech clear would take the room away.
  const PLAIN = { audio: { echoCancellation: false, noiseSuppression: false, autoGainControl: false, channelCount: 1 } };
  async function microphone(rate, take) {
    const stream = await navigator.mediaDevices.getUserMedia(PLAIN);
    const context = new AudioContext(rate ? { sampleRate: rate } : {});
    await context.audioWorklet.addModule("/studio/studio.js");
    const node = new AudioWorkletNode(context, "s2m-microphone", { numberOfOutputs: 0 });
    node.port.onmessage = (event) => take(event.data);
    context.createMediaStreamSource(stream).connect(node);
    return {
      rate: context.sampleRate,
      stop: () => { stream.getTracks().forEach((track) => track.stop()); context.close(); },
    };
  }
  // 32-bit float WAV, since near-silence has no bits to lose.
  function wav(chunks, rate) {
    const n = chunks.reduce((sum, chunk) => sum + chunk.length, 0), view = new DataView(new ArrayBuffer(44 + 4 * n));
    const word = (place, text) => [...text].forEach((c, i) => view.setUint8(place + i, c.charCodeAt(0)));
    word(0, "RIFF"); view.setUint32(4, 36 + 4 * n, true); word(8, "WAVEfmt "); view.setUint32(16, 16, true);
    view.setUint16(20, 3, true); view.setUint16(22, 1, true); view.setUint32(24, rate, true);
    view.setUint32(28, 4 * rate, true); view.setUint16(32, 4, true); view.setUint16(34, 32, true);
    word(36, "data"); view.setUint32(40, 4 * n, true);
    let place = 44;
    for (const chunk of chunks) for (const x of chunk) { view.setFloat32(place, x, true); place += 4; }
    return new Blob([view.buffer], { type: "audio/wav" });
  }

  // Sound of a command as it comes, 16-bit samples of two channels at 48 kHz; `told` of every bit of it. `left` says for
  // how many seconds there is sound, `done` is there when all was heard. A media element would wait for a third of a
  // megabyte before it begins.
  const RATE = 48000;
  function hear(number, context, to, lead, told) {
    const abort = new AbortController(), sound = { seconds: 0, next: 0, stop: () => abort.abort() };
    sound.left = () => Math.max(0, sound.next - context.currentTime);
    sound.done = (async () => {
      const answer = await fetch(url(`stream/${number}`), { signal: abort.signal });
      if (!answer.ok) throw new Error((await answer.json()).error);
      const reader = answer.body.getReader();
      let rest = new Uint8Array(0);
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        const bytes = new Uint8Array(rest.length + value.length);
        bytes.set(rest);
        bytes.set(value, rest.length);
        const n = Math.floor(bytes.length / 4);
        rest = bytes.slice(4 * n);
        if (!n) continue;
        const samples = new Int16Array(bytes.buffer, 0, 2 * n), buffer = context.createBuffer(2, n, RATE);
        for (let c = 0; c < 2; c++) buffer.getChannelData(c).forEach((_, i, out) => { out[i] = samples[2 * i + c] / 32768; });
        const source = context.createBufferSource();
        source.buffer = buffer;
        source.connect(to);
        abort.signal.addEventListener("abort", () => source.disconnect());
        if (sound.next <= context.currentTime) sound.next = context.currentTime + lead;
        source.start(sound.next);
        sound.next += n / RATE;
        sound.seconds += n / RATE;
        told(sound);
      }
      while (sound.left() && !abort.signal.aborted) await new Promise((resolve) => setTimeout(resolve, 50));
    })();
    return sound;
  }
  // Made by the first gesture, without which a browser lets nothing sound; it runs while it is needed.
  let speaker = null;
  for (const gesture of ["pointerdown", "keydown"]) {
    addEventListener(gesture, () => {
      if (speaker) return;
      speaker = new AudioContext({ sampleRate: RATE });
      speaker.suspend();
    }, true);
  }

  // ---- Listen: the room and its time axis ----

  S.kinds.room = (root, props, trigger, watch) => {
    const news = teller(), facts = make("dl", { class: "facts" }), cues = make("span", { class: "chips" });
    let pencil = "", recorder = null;
    const got = async (file, name) => {
      const kept = await send(file, name, "room", news.tell);
      if (kept) trigger("submit", { token: S.token, name: kept, kind: "upload" });
    };
    const meter = make("meter", { min: -90, max: -10, low: -78, high: -38, optimum: -60, value: -90, hidden: true, "aria-label": "Level in dBFS" });
    const level = make("output", { class: "level" });
    const record = make("button", { type: "button", class: "record", "aria-pressed": "false" }, "Record");
    record.addEventListener("click", async () => {
      if (recorder) {
        const { chunks, input } = recorder;
        recorder = null;
        input.stop();
        record.textContent = "Record";
        record.setAttribute("aria-pressed", "false");
        meter.hidden = true;
        level.textContent = "";
        got(wav(chunks, input.rate), `recording-${new Date().toTimeString().slice(0, 8).replaceAll(":", "")}.wav`);
        return;
      }
      const chunks = [];
      let power = 0;
      try {
        const input = await microphone(0, (chunk) => {
          chunks.push(chunk);
          power += 0.05 * (chunk.reduce((sum, x) => sum + x * x, 0) / chunk.length - power);
          const db = 10 * Math.log10(power + 1e-12);
          meter.value = db;
          level.textContent = `${db.toFixed(0)} dBFS`;
        });
        recorder = { chunks, input };
        record.textContent = "Stop";
        record.setAttribute("aria-pressed", "true");
        meter.hidden = false;
        news.tell("Recording as it is. Keep still, and do not normalise it afterwards.");
      } catch (error) {
        news.tell(`The microphone cannot be used (${error.message}); allow it in the browser, or upload a recording.`, true);
      }
    });
    const canvas = board(188, "No room yet", (pen, width, height, colour) => {
      const scene = S.scene, low = height - 40;
      pen.fillStyle = colour("field");
      pen.fillRect(GUTTER, 0, width - GUTTER, height - 16);
      if (!scene) return;
      const energy = scene.energy_dbfs, floor = Math.min(scene.noise_floor_dbfs, ...energy) - 3, top = Math.max(...energy) + 3;
      const y = (db) => 6 + (1 - (db - floor) / (top - floor)) * (low - 12);
      pen.beginPath();
      pen.moveTo(at(0, width), low);
      energy.forEach((db, i) => pen.lineTo(at(Math.min(S.seconds, (i + 0.5) / scene.curve_rate_hz), width), y(db)));
      pen.lineTo(at(S.seconds, width), low);
      pen.fillStyle = colour("energy");
      pen.fill();
      pen.fillStyle = colour("quiet");
      for (const db of [top - 3, (top + floor) / 2, floor + 3]) pen.fillText(db.toFixed(0), 4, y(db) + 4);
      for (const event of scene.events) {
        pen.globalAlpha = 0.3 + 0.7 * event.confidence;
        line(pen, at(event.seconds, width), low - clamp(event.strength_db, 4, 36) * 2, low, colour("event"), [], 1.5);
      }
      pen.globalAlpha = 1;
      pen.fillStyle = colour("pulse");
      for (const t of scene.pulse_seconds) {
        pen.beginPath();
        pen.arc(at(t, width), low + 10, 2.5, 0, 7);
        pen.fill();
      }
      for (const b of scene.boundaries) line(pen, at(b.seconds, width), 0, low, colour("boundary"), [5, 4], 1.5);
      for (const [t, name] of S.wishes.cues || []) {
        line(pen, at(t, width), 0, low + 18, colour("cue"), [], 1.5);
        pen.fillStyle = colour("cue");
        pen.fillText(name || "cue", at(t, width) + 4, 12);
      }
      for (const [which, column] of [["valence", 1], ["arousal", 2]]) {
        if (!S.wishes.curve) break;
        pen.strokeStyle = colour(which);
        pen.lineWidth = 2;
        pen.beginPath();
        S.wishes.curve.forEach((point, i) => pen[i ? "lineTo" : "moveTo"](at(point[0], width), (1 - point[column]) / 2 * (low - 8) + 4));
        pen.stroke();
      }
      seconds(pen, width, height - 3, colour("quiet"));
      line(pen, at(S.cursor, width), 0, height - 16, colour("cursor"), [], 1.5);
    });
    const slider = make("input", { type: "range", min: 0, max: 1, step: 0.01, value: 0, "aria-label": "Moment, in seconds", class: "moment" });
    slider.addEventListener("input", () => S.seek(Number(slider.value)));
    function drawn(event) {
      if (!pencil) return S.seek(canvas.time(event));
      const n = 24, column = pencil === "valence" ? 1 : 2;
      const value = clamp(1 - 2 * (event.clientY - canvas.getBoundingClientRect().top - 4) / (canvas.clientHeight - 48), -1, 1);
      const [valence, arousal] = S.wishes.mood || [0, 0];
      S.wishes.curve ||= Array.from({ length: n + 1 }, (_, i) => [+(i * S.seconds / n).toFixed(3), valence, arousal]);
      S.wishes.curve[Math.round(canvas.time(event) / S.seconds * n)][column] = +value.toFixed(2);
      S.commit();
    }
    canvas.addEventListener("pointerdown", (event) => { if (S.scene) { canvas.setPointerCapture(event.pointerId); drawn(event); } });
    canvas.addEventListener("pointermove", (event) => { if (S.scene && event.buttons) drawn(event); });
    const marks = make("div", { class: "marks", hidden: true },
      make("button", { type: "button", class: "cue", onclick: () => {
        S.wishes.cues = [...(S.wishes.cues || []), [+S.cursor.toFixed(2), ""]].sort((a, b) => a[0] - b[0]);
        S.commit();
      } }, "Add cue here"), cues,
      make("span", { class: "pencils", role: "group", "aria-label": "Draw a mood curve" },
        ...["valence", "arousal"].map((which) => make("button", { type: "button", class: which, "aria-pressed": "false", onclick: (event) => {
          pencil = pencil === which ? "" : which;
          for (const button of marks.querySelectorAll(".pencils button[aria-pressed]")) {
            button.setAttribute("aria-pressed", String(pencil !== "" && button.classList.contains(pencil)));
          }
          event.currentTarget.blur();
        } }, `Draw ${which}`)),
        make("button", { type: "button", class: "plain", onclick: () => { delete S.wishes.curve; S.commit(); } }, "Clear curve")));
    const hint = make("p", { class: "hint" }, "Drop a recording of a quiet room here. Do not normalise it: its level says how quiet the room is.");
    const sources = make("div", { class: "sources" },
      chooser("Upload", "audio/*,video/*,.wav,.flac,.ogg,.opus,.mp3,.aiff,.au,.caf,.w64,.rf64,.m4a,.mp4,.mov,.mkv", (file) => got(file, file.name), { class: "upload" }),
      record, meter, level,
      make("button", { type: "button", class: "bundled", onclick: () => trigger("submit", { token: S.token, name: "", kind: "bundled" }) }, "Use the bundled room"),
      hint);
    root.append(sources, news, canvas, slider, marks, facts);
    droppable(root, (file) => got(file, file.name));
    const fact = (name, value) => facts.append(make("div", {}, make("dt", {}, name), make("dd", {}, value)));
    watch("value", () => {
      const scene = props.value;
      if (!scene || !scene.energy_dbfs) return;
      if (!S.scene || S.scene.project !== scene.project) { S.wishes = {}; S.cursor = 0; }
      Object.assign(S, { scene, token: scene.token, seconds: scene.seconds });
      sessionStorage.setItem(PROJECT, scene.project);
      news.tell("");
      hint.textContent = scene.room;
      slider.max = scene.seconds;
      slider.value = 0;
      marks.hidden = false;
      facts.replaceChildren();
      fact("length", `${scene.seconds.toFixed(1)} s`);
      fact("level", `${scene.level_dbfs.toFixed(0)} dBFS`);
      fact("floor", `${scene.noise_floor_dbfs.toFixed(0)} dBFS`);
      fact("pulse", scene.tempo_bpm ? `${scene.tempo_bpm.toFixed(0)} bpm` : "none");
      fact("events", scene.events.length);
      fact("changes", scene.boundaries.length);
      fact("RT60", scene.rt60_seconds ? `${scene.rt60_seconds.toFixed(2)} s` : "not found");
      canvas.setAttribute("aria-label", `${scene.room}: ${[...facts.children].map((f) => f.textContent.replace(/^([a-zRT60]*?)(?=[-\d]|none|not)/, "$1 ")).join(", ")}`);
      S.commit();
    });
    S.on("wishes", () => {
      cues.replaceChildren(...(S.wishes.cues || []).map((cue) => make("span", { class: "chip" }, clock(cue[0]),
        make("input", { value: cue[1], size: 7, maxlength: 40, placeholder: "name", "aria-label": `Name of the cue at ${cue[0]} s`, onchange: (event) => {
          cue[1] = event.target.value.replaceAll("=", " ").trim();
          S.commit();
        } }),
        make("button", { type: "button", "aria-label": `Remove the cue at ${cue[0]} s`, onclick: () => {
          S.wishes.cues = S.wishes.cues.filter((other) => other !== cue);
          S.commit();
        } }, "×"))));
      canvas.redraw();
    });
    S.on("cursor", () => { slider.value = S.cursor; slider.setAttribute("aria-valuetext", clock(S.cursor)); canvas.redraw(); });
    trigger("focus", { known: sessionStorage.getItem(PROJECT) || "" });
  };

  // ---- Steer ----

  S.kinds.steer = (root, props) => {
    const rows = {}, groups = {};
    S.commit = () => {
      props.value = JSON.parse(JSON.stringify(S.wishes));
      S.emit("wishes");
    };
    const set = (name, value) => {
      if (value === null || value === "" || (Array.isArray(value) && !value.length)) delete S.wishes[name];
      else S.wishes[name] = value;
      S.commit();
    };
    const decided = (name) => {
      const value = S.decided[name];
      return value ? `the room decides: ${value}` : "the room decides";
    };
    function group(name) {
      if (!groups[name]) {
        groups[name] = make("div", { class: "knobs" });
        const open = innerWidth > 900 && !["Files", "How it is drawn"].includes(name);
        root.append(make("details", { open }, make("summary", {}, name), groups[name]));
      }
      return groups[name];
    }
    function row(name, label, control, show, of = group("")) {
      const id = `s2m-${name}`;
      control.id = id;
      const free = make("button", { type: "button", class: "free-it", "aria-label": `Let the room decide: ${label}`, title: "Let the room decide", onclick: () => set(name, null) }, "×");
      const state = make("output", { for: id });
      const line = make("div", { class: control.type === "range" ? "knob range" : "knob" }, make("label", { for: id }, label), control, state, free);
      of.append(line);
      rows[name] = () => {
        const value = S.wishes[name], is_set = value !== undefined;
        line.classList.toggle("set", is_set);
        free.hidden = !is_set;
        if (control.type === "range") {
          state.textContent = is_set ? show(value) : S.decided[name] || "room";
          state.title = is_set ? "" : decided(name);
          control.setAttribute("aria-valuetext", is_set ? show(value) : decided(name));
        } else state.textContent = is_set ? show(value) : "";
      };
      return line;
    }
    function mood() {
      const names = ["valence", "arousal"], ends = { valence: ["sad", "glad"], arousal: ["calm", "stirred"] };
      const dot = make("span", { class: "dot" }), pad = make("div", { class: "pad", "aria-hidden": "true" }, dot,
        ...["sad", "glad", "calm", "stirred"].map((end) => make("span", { class: `end ${end}` }, end)));
      const sliders = names.map((which) => make("input", { type: "range", min: -1, max: 1, step: 0.05, value: 0, id: `s2m-${which}`, "aria-label": `${which}: ${ends[which].join(" to ")}` }));
      const free = make("button", { type: "button", class: "free-it", "aria-label": "Let the room decide: mood", title: "Let the room decide", onclick: () => { delete S.wishes.curve; set("mood", null); } }, "×");
      const state = make("output", {});
      const line = make("div", { class: "mood" }, pad, make("div", { class: "sliders" }, ...names.flatMap((which, i) => [make("label", { for: `s2m-${which}` }, which), sliders[i]]), state, free));
      const point = (event) => {
        const box = pad.getBoundingClientRect();
        set("mood", [clamp(2 * (event.clientX - box.left) / box.width - 1, -1, 1), clamp(1 - 2 * (event.clientY - box.top) / box.height, -1, 1)].map((x) => +x.toFixed(2)));
      };
      pad.addEventListener("pointerdown", (event) => { pad.setPointerCapture(event.pointerId); point(event); });
      pad.addEventListener("pointermove", (event) => { if (event.buttons) point(event); });
      sliders.forEach((slider) => slider.addEventListener("input", () => set("mood", sliders.map((s) => Number(s.value)))));
      group("Mood").append(line);
      rows.mood = () => {
        const value = S.wishes.mood, [valence, arousal] = value || [0, 0], is_set = !!(value || S.wishes.curve);
        sliders[0].value = valence;
        sliders[1].value = arousal;
        dot.style.left = `${50 + 50 * valence}%`;
        dot.style.top = `${50 - 50 * arousal}%`;
        line.classList.toggle("set", is_set);
        free.hidden = !is_set;
        state.textContent = S.wishes.curve ? "as drawn over the room" : value ? `${valence}, ${arousal}` : decided("mood");
      };
    }
    function knob(k) {
      const of = group(k.group), title = k.hint || false;
      if (k.kind === "range") {
        const input = make("input", { type: "range", min: k.low, max: k.high, step: k.step, title });
        input.addEventListener("input", () => set(k.name, Number(input.value)));
        row(k.name, k.label, input, (value) => `${value}${k.unit ? ` ${k.unit}` : ""}`, of);
        const show = rows[k.name];
        rows[k.name] = () => { input.value = S.wishes[k.name] ?? (k.low + k.high) / 2; show(); };
      } else if (k.kind === "choice") {
        const input = make("select", { title }, make("option", { value: "" }, "the room decides"), ...k.choices.map((c) => make("option", { value: c }, c)));
        input.addEventListener("change", () => set(k.name, input.value));
        row(k.name, k.label, input, () => "", of);
        const show = rows[k.name];
        rows[k.name] = () => { input.value = S.wishes[k.name] ?? ""; input.options[0].textContent = decided(k.name); show(); };
      } else if (k.kind === "text") {
        const input = make("input", { type: "text", placeholder: "the room decides", title, maxlength: 2000 });
        input.addEventListener("change", () => set(k.name, input.value.trim()));
        row(k.name, k.label, input, () => "", of);
        const show = rows[k.name];
        rows[k.name] = () => { input.value = S.wishes[k.name] ?? ""; show(); };
      } else if (k.kind === "chips") {
        const chips = make("span", { class: "chips" }), id = `s2m-list-${k.name}`;
        const input = make("input", { type: "text", list: id, title });
        const list = make("datalist", { id }, ...k.choices.map((c) => make("option", { value: c })));
        input.addEventListener("change", () => {
          const words = input.value.split(",").map((word) => word.trim()).filter(Boolean);
          input.value = "";
          if (words.length) set(k.name, [...new Set([...(S.wishes[k.name] || []), ...words])]);
        });
        const line = row(k.name, k.label, input, () => "", of);
        line.append(chips, list);
        const show = rows[k.name];
        rows[k.name] = () => {
          input.placeholder = S.wishes[k.name] ? "add another" : k.name === "instruments" ? decided(k.name) : "the room decides";
          chips.replaceChildren(...(S.wishes[k.name] || []).map((word) => make("span", { class: "chip" }, word,
            make("button", { type: "button", "aria-label": `Remove ${word}`, onclick: () => set(k.name, S.wishes[k.name].filter((w) => w !== word)) }, "×"))));
          show();
        };
      } else {
        const news = teller();
        const pick = chooser("Choose", k.name === "melody" ? ".mid,.midi" : "audio/*", async (file) => {
          const name = await send(file, file.name, "other", news.tell);
          if (name) set(k.name, name);
        });
        const input = make("span", {}, pick);
        const line = row(k.name, k.label, input, (value) => value, of);
        line.querySelector("label").replaceWith(make("span", { class: "label" }, k.label));
        line.append(news);
      }
    }
    if (props.statement) root.append(make("p", { class: "note" }, props.statement));
    for (const k of props.knobs) {
      if (k.group === "Harmony" && !rows.mood) mood();
      knob(k);
    }
    const refresh = () => Object.values(rows).forEach((show) => show());
    S.on("wishes", refresh);
    S.on("decided", refresh);
    refresh();
  };

  // ---- the player ----

  S.kinds.player = (root, props, trigger, watch) => {
    const audio = make("audio", { controls: true, preload: "auto", "aria-label": "Music" });
    const takes = make("div", { class: "takes", role: "radiogroup", "aria-label": "Takes" });
    const about = make("p", { class: "about" }, "Music will be here.");
    let shown = null, streamed = 0, stream = null;
    root.append(takes, audio, about);
    const label = (file) => {
      const [, number, letter] = file.match(/-(\d+)(?:\.(\d+))?\.(\w+)$/) || [];
      if (!number) return file;
      return (file.startsWith("take-") ? "" : `${file.split("-")[0]} `) + number + (letter ? "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[letter - 1] || `.${letter}` : "");
    };
    function load(file, play) {
      const t = stream ? stream.left() && S.cursor : audio.currentTime || 0;
      silence();
      audio.src = url(`file/${encodeURIComponent(file)}`);
      audio.addEventListener("loadedmetadata", () => { audio.currentTime = Math.min(t, audio.duration || 0); }, { once: true });
      if (play) audio.play().catch(() => {});
    }
    function silence() {
      stream?.stop();
      speaker?.suspend();
      stream = audio.srcObject = null;
    }
    // The music of a command while it is made, and its file afterwards.
    function begin(number) {
      audio.pause();
      silence();
      streamed = number;
      speaker ||= new AudioContext({ sampleRate: RATE });
      speaker.resume();
      const to = speaker.createMediaStreamDestination(), own = stream = hear(number, speaker, to, 0.2, () => {
        if (audio.srcObject === to.stream) return;
        audio.srcObject = to.stream;
        audio.play().catch(() => {});
        about.textContent = "Heard while it is made, at the level that the model chose.";
      });
      own.done.catch(() => {}).then(() => {
        own.is_over = true;
        if (own === stream && shown.current !== own.before) load(shown.current, !own.seconds);
      });
      own.before = shown.current;
    }
    function describe() {
      const take = shown.takes.find((t) => t.file === shown.current);
      if (!take) return;
      about.textContent = [take.file, `seed ${take.seed}`, `${take.seconds.toFixed(2)} s`, take.lufs == null ? "" : `${take.lufs.toFixed(1)} LUFS`, take.parts.join(", ")].filter(Boolean).join(" · ");
    }
    function select(file) {
      if (file === shown.current) return;
      const play = !audio.paused;
      shown = { ...shown, current: file };
      props.value = shown;
      load(file, play);
      render();
      trigger("select", { token: S.token, file });
    }
    function render() {
      takes.replaceChildren(...shown.takes.map((take) => make("button", {
        type: "button", role: "radio", "aria-checked": String(take.file === shown.current), tabindex: take.file === shown.current ? 0 : -1,
        title: take.file, onclick: () => select(take.file),
      }, label(take.file))));
      describe();
    }
    takes.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      const i = shown.takes.findIndex((take) => take.file === shown.current);
      select(shown.takes[(i + step + shown.takes.length) % shown.takes.length].file);
      takes.children[(i + step + shown.takes.length) % shown.takes.length].focus();
    });
    watch("value", () => {
      const next = props.value;
      if (!next || !next.takes) return;
      S.token = next.token;
      const before = shown?.current;
      shown = next;
      render();
      if (next.stream && next.stream !== streamed) begin(next.stream);
      else if (next.stream && stream) {
        // What does not sound as it is made, or no longer, is played from its file.
        if (stream.is_over || (audio.srcObject && audio.paused)) load(next.current, !stream.seconds);
      } else if (next.current && (next.current !== before || stream)) load(next.current, false);
      else if (!next.current) {
        silence();
        audio.removeAttribute("src");
        about.textContent = "Music will be here.";
      }
    });
    audio.addEventListener("pause", () => { if (audio.srcObject) speaker.suspend(); });
    audio.addEventListener("play", () => { if (audio.srcObject) speaker.resume(); });
    S.seek = (t) => {
      S.cursor = clamp(t, 0, S.seconds);
      if (audio.src && !stream) audio.currentTime = S.cursor;
      S.emit("cursor");
    };
    // Fifteen times a second: drawing more often would take the processor that makes the music.
    let timer = 0;
    const follow = () => {
      clearTimeout(timer);
      if (stream || audio.src) {
        S.cursor = clamp(stream ? stream.seconds - stream.left() : audio.currentTime, 0, S.seconds);
        S.emit("cursor");
      }
      if (!audio.paused) timer = setTimeout(follow, 66);
    };
    for (const name of ["play", "seeked", "pause"]) audio.addEventListener(name, follow);
    document.addEventListener("keydown", (event) => {
      if (event.key === " " && (event.target === document.body || event.target.tagName === "CANVAS") && (stream || audio.src)) {
        event.preventDefault();
        if (audio.paused) audio.play().catch(() => {});
        else audio.pause();
      }
    });
  };

  // ---- Edit: the piano roll ----

  S.kinds.roll = (root, props, trigger, watch) => {
    const RULER = 20, HEIGHT = 280;
    let score = null, part = 0, note = null, undo = [], redo = [], drag = null, mine = 0, low = 48, high = 84;
    const news = teller(), list = make("div", { class: "parts", role: "group", "aria-label": "Parts" });
    const live = make("p", { class: "unseen", "aria-live": "polite" });
    const NAMES = ["C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B"];
    const pitch_name = (p) => `${NAMES[p % 12]}${Math.floor(p / 12) - 1}`;
    const grid = () => score.beats.length > 1 ? (score.beats.at(-1) - score.beats[0]) / (score.beats.length - 1) / 4 : 0.125;
    const snap = (t) => {
      const step = grid(), first = score.beats[0] || 0;
      return clamp(first + Math.round((t - first) / step) * step, 0, Math.max(0, score.seconds - step / 2));
    };
    const y_of = (p) => RULER + (high - p) * (HEIGHT - RULER) / (high - low + 1);
    const pitch_at = (y) => clamp(Math.round(high + 0.5 - 0.001 - (y - RULER) * (high - low + 1) / (HEIGHT - RULER)), low, high);
    const t_of = (t, width) => GUTTER + (t / score.seconds) * (width - GUTTER);
    function commit(changed = true) {
      if (changed) score.changed = true;
      props.value = { ...JSON.parse(JSON.stringify(score)), mine: ++mine };
      canvas.redraw();
    }
    function keep() {
      undo.push(JSON.stringify(score.parts));
      if (undo.length > 200) undo.shift();
      redo = [];
      buttons();
    }
    function back(from, to) {
      if (!from.length) return;
      to.push(JSON.stringify(score.parts));
      score.parts = JSON.parse(from.pop());
      note = null;
      part = clamp(part, 0, score.parts.length - 1);
      buttons();
      parts();
      commit();
    }
    const undo_button = make("button", { type: "button", class: "undo", onclick: () => back(undo, redo) }, "Undo");
    const redo_button = make("button", { type: "button", class: "redo", onclick: () => back(redo, undo) }, "Redo");
    const stretch = make("output", { class: "stretch" });
    function buttons() {
      undo_button.disabled = !undo.length;
      redo_button.disabled = !redo.length;
      stretch.textContent = score?.selected ? `${score.selected[0].toFixed(1)} to ${score.selected[1].toFixed(1)} s selected` : "";
    }
    function tell() {
      live.textContent = note ? `${pitch_name(note[2])} at ${note[0].toFixed(2)} s, ${(note[1] - note[0]).toFixed(2)} s long` : "No note selected";
      canvas.setAttribute("aria-label", label());
    }
    const label = () => !score?.parts.length ? "Piano roll, empty" : `Piano roll: ${score.parts.reduce((n, p) => n + p.notes.length, 0)} notes of ${score.parts.map((p) => p.name).join(", ")}. `
      + "Comma and full stop choose a note, arrows move it, with Shift they change its length or octave, Delete removes it, Enter adds one at the cursor, Control Z undoes.";
    const canvas = board(HEIGHT, "Piano roll, empty", (pen, width, height, colour) => {
      pen.fillStyle = colour("field");
      pen.fillRect(GUTTER, 0, width - GUTTER, height);
      if (!score?.parts.length) {
        pen.fillStyle = colour("quiet");
        pen.fillText("Notes stand here: make a piece, compose, or drop a MIDI file.", GUTTER + 12, height / 2);
        return;
      }
      const tall = (HEIGHT - RULER) / (high - low + 1);
      for (let p = low; p <= high; p++) {
        if ([1, 3, 6, 8, 10].includes(p % 12)) {
          pen.fillStyle = colour("black");
          pen.fillRect(GUTTER, y_of(p), width - GUTTER, tall);
        }
        if (p % 12 === 0) {
          pen.fillStyle = colour("quiet");
          pen.fillText(pitch_name(p), 6, y_of(p) + tall);
        }
      }
      for (const t of score.bars) line(pen, t_of(t, width), RULER, height, colour("grid"));
      for (const t of score.boundaries) line(pen, t_of(t, width), 0, height, colour("boundary"), [5, 4], 1.5);
      if (score.selected) {
        pen.fillStyle = colour("selected");
        pen.fillRect(t_of(score.selected[0], width), 0, t_of(score.selected[1], width) - t_of(score.selected[0], width), height);
      }
      score.parts.forEach((p, i) => {
        const is_own = i === part;
        for (const n of p.notes) {
          pen.globalAlpha = p.muted ? 0.12 : is_own ? 0.45 + 0.55 * n[3] / 127 : 0.4;
          pen.fillStyle = COLOURS[i % COLOURS.length];
          const x = t_of(n[0], width), w = Math.max(2, t_of(n[1], width) - x);
          pen.fillRect(x, y_of(n[2]) + 0.5, w, Math.max(2, tall - 1));
          if (n === note) {
            pen.globalAlpha = 1;
            pen.strokeStyle = colour("cursor");
            pen.lineWidth = 2;
            pen.strokeRect(x - 1, y_of(n[2]) - 0.5, w + 2, Math.max(2, tall - 1) + 2);
          }
        }
      });
      pen.globalAlpha = 1;
      pen.fillStyle = colour("ruler");
      pen.fillRect(GUTTER, 0, width - GUTTER, RULER - 2);
      score.bars.forEach((t, i) => {
        if (i % Math.ceil(score.bars.length / (width / 45)) === 0) {
          pen.fillStyle = colour("quiet");
          pen.fillText(i + 1, t_of(t, width) + 3, 13);
        }
      });
      line(pen, t_of(Math.min(S.cursor, score.seconds), width), 0, height, colour("cursor"), [], 1.5);
    });
    canvas.setAttribute("role", "application");
    canvas.tabIndex = 0;
    const time = (event) => clamp((event.clientX - canvas.getBoundingClientRect().left - GUTTER) / (canvas.clientWidth - GUTTER), 0, 1) * score.seconds;
    const row = (event) => event.clientY - canvas.getBoundingClientRect().top;
    function under(t, p) {
      const wide = 4 * score.seconds / canvas.clientWidth;
      const order = [part, ...score.parts.keys()].filter((i, at, all) => all.indexOf(i) === at && !score.parts[i]?.muted);
      for (const i of order) {
        const found = score.parts[i]?.notes.find((n) => n[2] === p && n[0] <= t + wide / 4 && Math.max(n[1], n[0] + wide) >= t);
        if (found) return [i, found];
      }
      return null;
    }
    canvas.addEventListener("pointerdown", (event) => {
      if (!score?.file) return;
      canvas.setPointerCapture(event.pointerId);
      const t = time(event), y = row(event);
      if (y < RULER) {
        drag = { kind: "stretch", from: t };
        score.selected = null;
        return;
      }
      const p = pitch_at(y), found = under(t, p);
      keep();
      if (found) {
        [part, note] = found;
        const edge = (note[1] - t) / score.seconds * (canvas.clientWidth - GUTTER);
        const kind = edge < 6 && note[1] - note[0] > grid() / 2 ? "length" : "move";
        drag = { kind, t, p, start: note[0], end: note[1], pitch: note[2], moved: false };
      } else {
        if (!score.parts.length) add_part();
        note = [snap(t), Math.min(score.seconds, snap(t) + 2 * grid()), p, 80];
        score.parts[part].notes.push(note);
        drag = { kind: "length", t, p, start: note[0], end: note[1], pitch: p, moved: true };
      }
      parts();
      canvas.redraw();
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!drag || !event.buttons) return;
      const t = time(event);
      if (drag.kind === "stretch") {
        score.selected = [Math.min(drag.from, t), Math.max(drag.from, t)].map((x) => +x.toFixed(2));
      } else if (drag.kind === "length") {
        note[1] = clamp(snap(drag.end + t - drag.t), note[0] + grid() / 2, score.seconds);
      } else {
        const start = Math.abs(t - drag.t) < grid() / 3 ? drag.start : snap(drag.start + t - drag.t);
        note[0] = clamp(start, 0, score.seconds - (drag.end - drag.start));
        note[1] = note[0] + drag.end - drag.start;
        note[2] = clamp(drag.pitch + pitch_at(row(event)) - drag.p, 0, 127);
      }
      drag.moved ||= drag.kind === "stretch" || note[0] !== drag.start || note[1] !== drag.end || note[2] !== drag.pitch;
      canvas.redraw();
    });
    canvas.addEventListener("pointerup", () => {
      if (!drag) return;
      const is_stretch = drag.kind === "stretch";
      if (is_stretch && score.selected && score.selected[1] - score.selected[0] < 0.1) score.selected = null;
      if (!is_stretch && !drag.moved) undo.pop();
      const moved = drag.moved && !is_stretch;
      drag = null;
      buttons();
      tell();
      commit(moved);
    });
    canvas.addEventListener("keydown", (event) => {
      if (!score?.file) return;
      const notes = score.parts[part]?.notes || [], key = event.key, command = event.ctrlKey || event.metaKey;
      if (command && key.toLowerCase() === "z") back(event.shiftKey ? redo : undo, event.shiftKey ? undo : redo);
      else if (command && key.toLowerCase() === "y") back(redo, undo);
      else if (key === "." || key === ",") {
        const sorted = [...notes].sort((a, b) => a[0] - b[0] || a[2] - b[2]), i = sorted.indexOf(note);
        note = sorted[i < 0 ? 0 : clamp(i + (key === "." ? 1 : -1), 0, sorted.length - 1)] || null;
      } else if (key === "Enter") {
        keep();
        if (!score.parts.length) add_part();
        note = [snap(S.cursor), Math.min(score.seconds, snap(S.cursor) + 2 * grid()), note ? note[2] : Math.round((low + high) / 2), 80];
        score.parts[part].notes.push(note);
      } else if ((key === "Delete" || key === "Backspace") && note) {
        keep();
        score.parts[part].notes = notes.filter((n) => n !== note);
        note = null;
      } else if (key.startsWith("Arrow") && note) {
        keep();
        const step = { ArrowLeft: -grid(), ArrowRight: grid() }[key];
        if (step && event.shiftKey) note[1] = clamp(note[1] + step, note[0] + grid() / 2, score.seconds);
        else if (step) {
          const length = note[1] - note[0];
          note[0] = clamp(note[0] + step, 0, score.seconds - length);
          note[1] = note[0] + length;
        } else note[2] = clamp(note[2] + (key === "ArrowUp" ? 1 : -1) * (event.shiftKey ? 12 : 1), low, high);
      } else return;
      event.preventDefault();
      parts();
      tell();
      commit(key !== "." && key !== ",");
    });
    function add_part() {
      score.parts.push({ name: "piano", program: 0, drum: false, role: "", notes: [] });
      part = score.parts.length - 1;
    }
    function parts() {
      list.replaceChildren(...(score?.parts || []).map((p, i) => {
        const choose = make("input", { type: "radio", name: "s2m-part", id: `s2m-part-${i}`, checked: i === part });
        choose.addEventListener("change", () => { part = i; note = null; canvas.redraw(); });
        const instrument = make("select", { "aria-label": `Instrument of part ${i + 1}`, disabled: p.drum },
          ...(p.drum ? [make("option", {}, "drums")] : props.instruments.slice(0, 128).map((name, n) => make("option", { value: n, selected: n === p.program }, name))));
        instrument.addEventListener("change", () => {
          keep();
          p.program = Number(instrument.value);
          p.name = props.instruments[p.program];
          parts();
          commit();
        });
        const mute = make("input", { type: "checkbox", id: `s2m-mute-${i}`, checked: !!p.muted });
        mute.addEventListener("change", () => { keep(); p.muted = mute.checked; commit(); });
        return make("div", { class: "part", style: `--part:${COLOURS[i % COLOURS.length]}` }, choose,
          make("label", { for: `s2m-part-${i}` }, `${i + 1}. ${p.role || p.name} (${p.notes.length})`), instrument,
          make("span", {}, mute, make("label", { for: `s2m-mute-${i}` }, "mute")));
      }));
    }
    const got = async (file) => {
      const name = await send(file, file.name, "tune", news.tell);
      if (name) trigger("submit", { token: S.token, name });
    };
    root.append(make("div", { class: "tools" }, undo_button, redo_button,
      make("button", { type: "button", onclick: () => { if (score?.file) { keep(); add_part(); parts(); commit(); } } }, "Add part"),
      chooser("Open a MIDI file", ".mid,.midi", got, { class: "open-midi" }), stretch), news, canvas, list, live);
    droppable(root, got);
    watch("value", () => {
      const value = props.value;
      if (!value || !value.parts || value.mine) return;
      score = { bars: [], beats: [], boundaries: [], selected: null, changed: false, ...JSON.parse(JSON.stringify(value)) };
      [part, note, undo, redo] = [0, null, [], []];
      const pitches = score.parts.flatMap((p) => p.notes.map((n) => n[2]));
      S.decided = pitches.length ? {
        key: score.key, instruments: score.parts.map((p) => p.name).join(", "), density: `${(pitches.length / score.seconds).toFixed(1)} notes/s`,
        tempo: score.beats.length > 1 ? `${(15 / grid()).toFixed(0)} bpm` : "", metre: "",
      } : {};
      S.emit("decided");
      const least = Math.min(60, ...pitches) - 3, most = Math.max(72, ...pitches) + 3;
      low = clamp(least, 0, 127);
      high = clamp(Math.max(most, least + 24), 0, 127);
      buttons();
      parts();
      tell();
      canvas.redraw();
    });
    S.on("cursor", () => canvas.redraw());
    buttons();
  };

  // ---- Take: a clip ----

  S.kinds.clip = (root, props, trigger) => {
    const news = teller();
    const got = async (file) => {
      const name = await send(file, file.name, "clip", news.tell);
      if (name) trigger("submit", { token: S.token, name, seed: Number(document.querySelector("#seed input")?.value || 0) });
    };
    root.append(make("div", { class: "tools" }, chooser("Score a clip", "video/*", got), make("p", { class: "hint" }, "or drop a video here: its own sound is the room.")), news);
    droppable(root, got);
  };

  // ---- Live ----

  S.kinds.live = (root) => {
    const news = teller(), button = make("button", { type: "button", "aria-pressed": "false" }, "Start");
    const meter = make("meter", { min: -90, max: -10, low: -78, high: -38, optimum: -60, value: -90, "aria-label": "Level in dBFS" });
    let running = null;
    async function start() {
      const state = { stopped: false, sent: 0 };
      running = state;
      button.textContent = "Stop";
      button.setAttribute("aria-pressed", "true");
      news.tell("Waiting for the model ...");
      try {
        const job = await (await fetch(url("live"), { method: "POST" })).json();
        if (job.error) throw new Error(job.error);
        state.output = new AudioContext({ sampleRate: RATE });
        let pile = [], busy = false;
        const flush = async () => {
          if (busy || state.stopped || pile.length < LIVE_RATE / 25 / 128) return;
          busy = true;
          const chunks = pile.splice(0), n = chunks.reduce((sum, c) => sum + c.length, 0), samples = new Int16Array(n);
          let i = 0;
          for (const chunk of chunks) for (const x of chunk) samples[i++] = Math.round(clamp(x, -1, 1) * 32767);
          state.sent += n / LIVE_RATE;
          meter.value = 20 * Math.log10(Math.hypot(...samples.subarray(0, 960)) / 32767 / Math.sqrt(Math.min(n, 960)) + 1e-6);
          const answer = await (await fetch(url(`live/${job.number}`), { method: "POST", body: samples.buffer })).json();
          busy = false;
          if (answer.over) stop(answer.said || "");
        };
        state.input = await microphone(LIVE_RATE, (chunk) => { pile.push(chunk); flush(); });
        state.sound = hear(job.number, state.output, state.output.destination, 0.05, (sound) => {
          const latency = state.sent - sound.seconds + sound.left() + state.output.baseLatency;
          news.tell(`What is heard now is answered ${latency.toFixed(1)} s later.`);
        });
        await state.sound.done;
      } catch (error) {
        if (!state.stopped) stop(`Live sound is not possible (${error.message}).`);
      }
    }
    function stop(why = "Stopped.") {
      if (!running) return;
      running.stopped = true;
      running.input?.stop();
      running.sound?.stop();
      running.output?.close();
      running = null;
      button.textContent = "Start";
      button.setAttribute("aria-pressed", "false");
      news.tell(why, why !== "Stopped." && why !== "");
    }
    button.addEventListener("click", () => running ? stop() : start());
    root.append(make("div", { class: "tools" }, button, meter), make("p", { class: "hint" },
      "The microphone is the room, and the music answers it. Use headphones, or the music hears itself. "
      + "Nothing of the future is known: about 0.6 s lie between a sound and its answer, and what this machine adds is shown. It stops when the page is closed."), news);
  };

  // ---- the page as a whole ----

  addEventListener("pagehide", () => { if (S.token) navigator.sendBeacon(url("leave")); });
  addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => event.preventDefault());
  const theme = setInterval(() => {
    const title = document.querySelector("#title h1");
    if (!title) return;
    clearInterval(theme);
    const kept = localStorage.getItem("s2m-theme");
    if (kept) document.body.classList.toggle("dark", kept === "dark");
    title.after(make("button", { type: "button", class: "theme", onclick: () => {
      localStorage.setItem("s2m-theme", document.body.classList.toggle("dark") ? "dark" : "light");
    } }, "Dark or light"));
  }, 50);
}
