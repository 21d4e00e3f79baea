// Draws results on the page: <alignseg-view files="[...]"> with what work.py says of each file.
// Opacity, classes and the pointer are worked out here, from the exact labels; nothing is asked of the server.

(() => {
  const VIEWS = { overlay: "Overlay", pair: "Side by side", offsets: "Offsets" };
  const DOWNLOADS = {
    labels: "Labels (PNG)",
    color: "Colours (PNG)",
    coco: "COCO (JSON)",
    polygons: "Polygons (JSON)",
    summary: "Summary (JSON)",
  };
  const STAGES = { load: "read", preprocess: "prepare", infer: "network", postprocess: "label" };
  const KEPT = 4; // results whose pixels stay in the browser
  const TOLD = 4; // classes that are read aloud
  const MEGABYTES = Number(document.currentScript.dataset.megabytes); // of a file
  const SILENT = {
    problem: "The program that serves this page does not answer.",
    expected: "the terminal in which it was started is still open",
    fix: "start it again, then load this page again",
  };

  // Outlives the elements, which the server replaces after each file.
  const chosen = { file: null, view: "overlay", opacity: 50, off: new Set(), field: "cab2.high" };
  const loaded = new Map();

  const make = (tag, attributes = {}, ...children) => {
    const element = Object.assign(document.createElement(tag), attributes);
    element.append(...children.filter((child) => child !== null));
    return element;
  };
  const percent = (share) => (share > 0 && share < 0.01 ? "<1%" : `${Math.round(100 * share)}%`);
  const rgb = (color) => `rgb(${color.join(",")})`;
  const swatchOf = (color) => {
    const swatch = make("i", { className: "as-swatch" });
    swatch.style.background = rgb(color);
    return swatch;
  };
  const address = (result, rest) => `./results/${result}/${rest}`;

  const fetched = async (url) => {
    const answer = await fetch(url).catch(() => { throw SILENT; });
    if (answer.ok) return answer;
    const text = await answer.text();
    let error = { problem: text, expected: "", fix: "" };
    try {
      error = JSON.parse(text).error;
    } catch {}
    throw error;
  };

  const pixelsOf = async (url) => {
    const options = { premultiplyAlpha: "none", colorSpaceConversion: "none" };
    const bitmap = await createImageBitmap(await (await fetched(url)).blob(), options);
    const canvas = make("canvas", { width: bitmap.width, height: bitmap.height });
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(bitmap, 0, 0);
    return context.getImageData(0, 0, bitmap.width, bitmap.height);
  };

  const load = async (names) => {
    const key = names.join();
    if (!loaded.has(key)) {
      if (loaded.size >= KEPT) loaded.delete(loaded.keys().next().value);
      const image = pixelsOf(address(names[0], "image.png"));
      const parts = names.map(async (name) => {
        const facts = await (await fetched(address(name, "facts"))).json();
        return { name, facts, image: await image, labels: await pixelsOf(address(name, "pixels.png")) };
      });
      loaded.set(key, Promise.all(parts));
      loaded.get(key).catch(() => loaded.delete(key));
    }
    return loaded.get(key);
  };

  const labelAt = (labels, at) => labels.data[at] | (labels.data[at + 1] << 8);

  // For each class and channel, what each value of the image becomes. Rounded as OpenCV's addWeighted:
  // one product in float32, the other added to it exactly, then to the nearest even number.
  const NO_CLASS = { name: "no class", color: [0, 0, 0] };  // labels above those of all classes

  const tablesOf = (classes, opacity, off) => {
    const under = Math.fround(1 - opacity), over = Math.fround(opacity);
    return classes.map(({ name, color }) =>
      color.map((value) =>
        Uint8ClampedArray.from({ length: 256 }, (_, pixel) =>
          off.has(name) ? pixel : Math.fround(pixel * under + Math.fround(value * over)),
        ),
      ),
    );
  };

  const paint = (canvas, part, opacity, off) => {
    const { image, labels, facts } = part;
    const tables = tablesOf(facts.classes, opacity, off);
    const [none] = tablesOf([NO_CLASS], opacity, off);
    const out = new ImageData(image.width, image.height);
    const from = image.data, to = out.data;
    for (let at = 0; at < from.length; at += 4) {
      const [red, green, blue] = tables[labelAt(labels, at)] ?? none;
      to[at] = red[from[at]];
      to[at + 1] = green[from[at + 1]];
      to[at + 2] = blue[from[at + 2]];
      to[at + 3] = 255;
    }
    canvas.width = image.width;
    canvas.height = image.height;
    canvas.getContext("2d").putImageData(out, 0, 0);
  };

  const errorBox = (name, error) =>
    make(
      "div", { className: "as-error", role: "alert" },
      make("strong", { textContent: name ? `${name} was not segmented` : "This did not work" }),
      make("p", { textContent: error.problem }),
      error.expected ? make("p", { textContent: `Expected: ${error.expected}` }) : null,
      error.fix ? make("p", { textContent: `Try: ${error.fix}` }) : null,
    );

  class View extends HTMLElement {
    static observedAttributes = ["files"];

    // Gradio changes the attribute and removes children that it does not know: hence the shadow.
    attributeChangedCallback() {
      this.root ?? this.begin();
      this.files = JSON.parse(this.getAttribute("files"));
      const last = this.files.length - 1;
      const keeps = this.files.some((file) => this.keyOf(file) === chosen.file);
      if (!keeps && last >= 0) chosen.file = this.keyOf(this.files[0]);
      this.show();
      if (last >= 0 && innerWidth < 700) this.scrollIntoView({ behavior: "smooth" });
    }

    begin() {
      this.root = this.attachShadow({ mode: "open" });
      this.status = make("p", { className: "as-status", role: "status" });
      this.content = make("div");
      this.root.append(make("link", { rel: "stylesheet", href: "./view.css" }), this.status, this.content);
    }

    keyOf(file) {
      return JSON.stringify(file);
    }

    async show() {
      const file = this.files.find((one) => this.keyOf(one) === chosen.file);
      const body = make("div", { className: "as-body" });
      const had = this.root.activeElement;
      this.content.replaceChildren(...(this.files.length > 1 ? [this.chips()] : []), body);
      this.focusAgain(had);
      if (!file) body.append(this.welcome());
      else if (file.error) body.append(errorBox(file.name, file.error));
      else if (file.clips) body.append(...this.clips(file.clips));
      else {
        body.append(make("p", { className: "as-quiet", textContent: "Loading…" }));
        try {
          this.parts = await load(file.pictures);
          this.file = file;
          this.fill(body);
          this.focusAgain(had);
          this.status.textContent = `${file.name}: ${this.told(this.parts[0])}`;
        } catch (error) {
          body.replaceChildren(errorBox("", error.problem ? error : { problem: String(error) }));
        }
      }
    }

    // Whoever uses the keyboard stays where they are when what they pressed is drawn anew.
    focusAgain(had) {
      if (!had || had.isConnected || this.root.activeElement) return;
      const nameOf = (one) => (one.closest("label") ?? one).textContent;
      const same = [...this.root.querySelectorAll(had.tagName)].find((one) => nameOf(one) === nameOf(had));
      same?.focus({ preventScroll: true });
    }

    // The largest classes in words, for those who do not see the picture.
    told({ facts }) {
      const largest = facts.classes.filter(({ share }) => share > 0)
        .sort((one, other) => other.share - one.share).slice(0, TOLD);
      return largest.map(({ name, share }) => `${name} ${percent(share)}`).join(", ");
    }

    refuse(name, error) {
      this.root.querySelector(".as-body").replaceChildren(errorBox(name, error));
    }

    welcome() {
      return make(
        "div", { className: "as-welcome" },
        make("p", { textContent: "Your result appears here." }),
        make("p", {
          className: "as-quiet",
          textContent: "Drop a picture or a video on the page, or take a picture with the camera.",
        }),
      );
    }

    chips() {
      const chip = (file) => {
        const button = make("button", { className: "as-chip", textContent: file.name, title: file.name });
        button.setAttribute("aria-pressed", this.keyOf(file) === chosen.file);
        if (file.error) button.classList.add("as-bad");
        button.onclick = () => {
          chosen.file = this.keyOf(file);
          this.show();
        };
        return button;
      };
      return make("nav", { className: "as-chips", ariaLabel: "Files" }, ...this.files.map(chip));
    }

    clips(clips) {
      const stage = make("div", { className: "as-stage" }, ...clips.map((clip) => this.clip(clip)));
      stage.dataset.count = clips.length;
      const classes = new Map(clips.flatMap((clip) => clip.classes));
      const entries = [...classes].map(([name, color]) =>
        make("div", { className: "as-class" }, swatchOf(color), make("span", { textContent: name })));
      return [stage, make("h3", { textContent: "Classes" }), make("div", { className: "as-classes" }, ...entries)];
    }

    clip(clip) {
      const url = address(clip.clip, "clip.mp4");
      const rate = (clip.frames / clip.seconds).toFixed(1);
      const about = `${clip.model}: ${clip.frames} frames, ${rate} per second on ${clip.backend}`;
      return make(
        "figure", { className: "as-clip" },
        make("video", {
          src: url, controls: true, loop: true, muted: true, autoplay: true, ariaLabel: about,
          onerror: (event) => fetched(url).catch((error) => event.target.replaceWith(errorBox("", error))),
        }),
        make("figcaption", { textContent: [about, ...clip.notes].join(". ") }),
        make("div", { className: "as-downloads" },
          make("a", { href: url, download: "segmented.mp4", textContent: "Video (MP4)" })),
      );
    }

    fill(body) {
      this.body = body;
      this.tip = make("div", { className: "as-tip", hidden: true });
      this.stage = make("div", { className: "as-stage" });
      this.foot = make("div", { className: "as-foot" });
      const had = this.root.activeElement;
      const note = this.file.note ? make("p", { className: "as-quiet", textContent: this.file.note }) : null;
      body.replaceChildren(...[note, this.toolbar(), this.stage, this.tip, this.foot].filter(Boolean));
      this.focusAgain(had);
      this.draw();
    }

    toolbar() {
      const button = ([key, title]) => {
        const one = make("button", { textContent: title });
        one.setAttribute("aria-pressed", key === chosen.view);
        one.dataset.view = key;
        one.onclick = () => {
          chosen.view = key;
          this.fill(this.body);
        };
        return one;
      };
      const bar = make(
        "div", { className: "as-toolbar" },
        make("div", { className: "as-views", role: "group", ariaLabel: "View" }, ...Object.entries(VIEWS).map(button)),
      );
      if (chosen.view === "overlay") {
        const shown = make("output", { textContent: `${chosen.opacity}%` });
        const slider = make("input", { type: "range", min: 0, max: 100, value: chosen.opacity });
        slider.setAttribute("aria-label", "Opacity");
        slider.oninput = () => {
          chosen.opacity = Number(slider.value);
          shown.textContent = `${chosen.opacity}%`;
          this.repaint();
        };
        bar.append(make("label", { className: "as-opacity" }, "Opacity ", slider, shown));
      }
      return bar;
    }

    draw() {
      if (chosen.view === "offsets") return this.drawOffsets();
      this.canvases = [];
      const figure = (part, kind, caption) => {
        const canvas = make("canvas", { className: `as-${kind}` });
        canvas.role = "img";
        canvas.ariaLabel = `${kind === "image" ? "Original" : VIEWS[chosen.view]} of ${this.file.name}` +
          (kind === "image" ? "" : `, ${part.facts.model}: ${this.told(part)}`);
        canvas.style.maxWidth = `calc(78vh * ${part.image.width / part.image.height})`;
        this.canvases.push({ canvas, part, kind });
        canvas.onpointermove = (event) => this.point(event, canvas, part);
        canvas.onpointerdown = canvas.onpointermove;
        canvas.onpointerleave = () => this.unpoint();
        const title = caption ? make("figcaption", { textContent: caption }) : null;
        return make("figure", {}, canvas, title);
      };
      const several = this.parts.length > 1;
      const figures = this.parts.map((part) =>
        figure(part, chosen.view === "pair" ? "labels" : "overlay",
          several ? part.facts.model : chosen.view === "pair" ? "Labels" : ""));
      if (chosen.view === "pair") figures.unshift(figure(this.parts[0], "image", "Original"));
      this.stage.dataset.count = figures.length;
      this.stage.replaceChildren(...figures);
      this.foot.replaceChildren(this.legend(), this.downloads(), ...this.parts.map((part) => this.times(part)));
      this.paintAll();
    }

    repaint() {
      this.waiting ??= requestAnimationFrame(() => {
        this.waiting = null;
        this.paintAll();
      });
    }

    paintAll() {
      const opacity = { overlay: chosen.opacity / 100, labels: 1, image: 0 };
      for (const { canvas, part, kind } of this.canvases) paint(canvas, part, opacity[kind], chosen.off);
    }

    point(event, canvas, part) {
      const box = canvas.getBoundingClientRect();
      const scale = canvas.width / box.width;
      const x = Math.min(canvas.width - 1, Math.max(0, Math.floor((event.clientX - box.left) * scale)));
      const y = Math.min(canvas.height - 1, Math.max(0, Math.floor((event.clientY - box.top) * scale)));
      const at = 4 * (y * canvas.width + x);
      const seen = part.facts.classes[labelAt(part.labels, at)] ?? NO_CLASS;
      const sure = part.facts.sure ? `, ${Math.round(part.labels.data[at + 2] / 2.55)}% sure` : "";
      this.tip.replaceChildren(swatchOf(seen.color), `${seen.name}${sure}`);
      this.tip.hidden = false;
      const left = Math.min(event.clientX + 14, innerWidth - this.tip.offsetWidth - 8);
      this.tip.style.left = `${Math.max(8, left)}px`;
      this.tip.style.top = `${event.clientY + (event.pointerType === "touch" ? -56 : 18)}px`;
      for (const entry of this.foot.querySelectorAll(".as-class"))
        entry.classList.toggle("as-under", entry.dataset.name === seen.name);
    }

    unpoint() {
      this.tip.hidden = true;
      for (const entry of this.foot.querySelectorAll(".as-under")) entry.classList.remove("as-under");
    }

    legend() {
      const shares = (name) => this.parts.map(({ facts }) =>
        facts.classes.find((one) => one.name === name)?.share ?? 0);
      const classes = new Map(this.parts.flatMap(({ facts }) => facts.classes.map((one) => [one.name, one])));
      const present = [...classes.values()]
        .map((one) => ({ ...one, shares: shares(one.name) }))
        .filter((one) => Math.max(...one.shares) > 0)
        .sort((one, other) => other.shares[0] - one.shares[0]);
      const entry = (one) => {
        const box = make("input", { type: "checkbox", checked: !chosen.off.has(one.name) });
        box.onchange = () => {
          chosen.off[box.checked ? "delete" : "add"](one.name);
          this.paintAll();
        };
        const share = make("b", { textContent: one.shares.map(percent).join(" · ") });
        const row = make("label", { className: "as-class" }, box, swatchOf(one.color),
          make("span", { textContent: one.name, title: one.name }), share);
        row.dataset.name = one.name;
        return row;
      };
      const all = (title, set) => {
        const button = make("button", { className: "as-link", textContent: title });
        button.onclick = () => {
          for (const one of present) chosen.off[set ? "delete" : "add"](one.name);
          const had = this.root.activeElement;
          this.draw();
          this.focusAgain(had);
        };
        return button;
      };
      const models = this.parts.map(({ facts }) => facts.model).join(" · ");
      const whose = this.parts.length > 1
        ? make("span", { className: "as-quiet as-whose", textContent: `shares of ${models}` }) : null;
      return make(
        "section", { className: "as-legend" },
        make("div", { className: "as-row" }, make("h3", { textContent: "Classes" }),
          all("show all", true), all("hide all", false), whose),
        make("div", { className: `as-classes${this.parts.length > 1 ? " as-wide" : ""}` }, ...present.map(entry)),
      );
    }

    downloads() {
      const stem = this.file.name.replace(/\.[^.]*$/, "");
      const links = this.parts.map(({ name, facts }, index) => {
        const shown = make("button", { className: "as-save", textContent: "Picture as shown (PNG)" });
        shown.onclick = () => this.savePicture(index, `${stem}_shown.png`);
        const link = ([format, title]) =>
          make("a", { href: address(name, `saved/${format}`), download: "", textContent: title });
        const title = this.parts.length > 1 ? `Download of ${facts.model}` : "Download";
        return make("section", {}, make("h3", { textContent: title }),
          make("div", { className: "as-downloads" }, shown, ...Object.entries(DOWNLOADS).map(link)));
      });
      return make("div", { className: "as-foot" }, ...links);
    }

    savePicture(index, name) {
      const shown = this.canvases.filter(({ kind }) => kind !== "image")[index].canvas;
      shown.toBlob((blob) => {
        const url = URL.createObjectURL(blob);
        make("a", { href: url, download: name }).click();
        setTimeout(() => URL.revokeObjectURL(url), 10000);
      });
    }

    times({ facts }) {
      const one = ([stage, title]) => `${title} ${facts.times[stage].toFixed(1)}`;
      const about = this.parts.length > 1 ? `${facts.model}: ` : "";
      return make("p", {
        className: "as-quiet as-times",
        textContent:
          `${about}${facts.times.total.toFixed(0)} ms (${Object.entries(STAGES).map(one).join(", ")}) on ` +
          `${facts.backend}; picture ${facts.width} × ${facts.height}, network ` +
          `${facts.input_size[1]} × ${facts.input_size[0]}`,
      });
    }

    async drawOffsets() {
      this.foot.replaceChildren();
      this.stage.dataset.count = 1;
      this.stage.replaceChildren(make("p", { className: "as-quiet", textContent: "Asking the network…" }));
      const stage = this.stage;
      const sections = await Promise.all(this.parts.map(async ({ name, facts }) => {
        try {
          const fields = await (await fetched(address(name, "offsets"))).json();
          return this.offsetsOf(name, facts, fields);
        } catch (error) {
          return errorBox("", error);
        }
      }));
      if (stage === this.stage && chosen.view === "offsets") stage.replaceChildren(...sections);
    }

    offsetsOf(name, facts, fields) {
      const pictures = make("div", { className: "as-stage" });
      const words = make("p", { className: "as-quiet" });
      const pick = make("select", {}, ...fields.map(({ field }) => make("option", { textContent: field })));
      pick.setAttribute("aria-label", "Offset field");
      const show = () => {
        chosen.field = pick.value;
        const one = fields.find(({ field }) => field === pick.value);
        const picture = (drawn, caption) => make("figure", {},
          make("img", { src: address(name, `offsets/${one.field}/${drawn}`), alt: caption }),
          make("figcaption", { textContent: caption }));
        pictures.dataset.count = 2;
        pictures.replaceChildren(picture("arrows", "Arrows point to where a pixel reads its feature"),
          picture("colors", "The same as colours; white is in place"));
        words.textContent = `Half of the pixels read up to ${one.median} px away, 95 in 100 up to ` +
          `${one.high} px, and the farthest ${one.largest} px (pixels of the network's input).`;
      };
      if (fields.some(({ field }) => field === chosen.field)) pick.value = chosen.field;
      pick.onchange = show;
      show();
      const title = this.parts.length > 1 ? make("h3", { textContent: facts.model }) : null;
      const wheel = make("img", { src: "./wheel.png", alt: "Colours of directions", className: "as-wheel" });
      return make("section", { className: "as-offsets" }, title, make("div", { className: "as-row" },
        make("label", {}, "Field ", pick), wheel), words, pictures);
    }
  }
  if (!customElements.get("alignseg-view")) customElements.define("alignseg-view", View);

  const refuse = (name, error) => document.querySelector("alignseg-view")?.refuse(name, error);

  // Gradio says "Error" and nothing else if an upload fails.
  const plainFetch = window.fetch;
  window.fetch = async (...asked) => {
    const isUpload = String(asked[0]).includes("/gradio_api/upload?");
    const answer = await plainFetch(...asked).catch((error) => {
      if (isUpload) refuse("", SILENT);
      throw error;
    });
    if (isUpload && !answer.ok) refuse("", { problem: await answer.clone().text() });
    return answer;
  };

  // Return whether all files may be uploaded; say so before hundreds of megabytes are on their way.
  const areSmall = (files) => {
    const large = [...files].find(({ size }) => size > MEGABYTES << 20);
    if (large)
      refuse(large.name, {
        problem: `${large.name} has ${Math.ceil(large.size / 2 ** 20)} MB`,
        expected: `up to ${MEGABYTES} MB for each file`,
        fix: "a smaller file, or a shorter video",
      });
    return !large;
  };
  const end = (event) => {
    event.preventDefault();
    event.stopImmediatePropagation();
  };
  const isField = (target) => target.matches?.("input[type=file]");
  window.addEventListener("change", (event) => {
    if (!isField(event.target) || areSmall(event.target.files)) return;
    end(event);
    event.target.value = "";
  }, true);

  // Wherever files are dropped, they belong to the field; a browser would leave the page to open them.
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
  window.addEventListener("dragover", (event) => hasFiles(event) && event.preventDefault());
  window.addEventListener("drop", (event) => {
    const field = document.querySelector("input[type=file]");
    if (!hasFiles(event) || !field) return;
    event.preventDefault();
    const { files } = event.dataTransfer;
    if (!areSmall(files)) return end(event);
    if (event.composedPath().some((one) => one.querySelector?.(":scope > input[type=file]"))) return;
    field.files = files;
    field.dispatchEvent(new Event("change", { bubbles: true }));
  }, true);
})();
