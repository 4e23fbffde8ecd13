// What test_browser.py asks of a whole page: an expression with two functions.
({
  /** Beginnings of elements that reach beyond the page, without those inside a box that scrolls. */
  wider() {
    const boxes = ".scroll, .plate, #panel, #contents, .unseen, .skip, svg";
    const beyond = (element) => element.getBoundingClientRect().right > innerWidth + 1;
    const found = [...document.body.querySelectorAll("*")].filter((element) => !element.closest(boxes) && beyond(element));
    const page = document.documentElement.scrollWidth > innerWidth ? ["page"] : [];
    return found.map((element) => element.outerHTML.slice(0, 80)).concat(page);
  },

  /** WCAG's contrast of each kind of text with what lies behind it: [[kind, lowest ratio, the text], ...]. Not inside drawings. */
  contrast() {
    const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    const pixel = (colour) => {
      canvas.clearRect(0, 0, 1, 1);
      canvas.fillStyle = colour;
      canvas.fillRect(0, 0, 1, 1);
      return [...canvas.getImageData(0, 0, 1, 1).data];
    };
    const linear = (value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
    const luminance = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
    const behind = (element) => {
      const colour = pixel(getComputedStyle(element).backgroundColor);
      return colour[3] > 230 ? colour : behind(element.parentElement);
    };
    const found = new Map();
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
      const text = walker.currentNode.data.trim();
      const element = walker.currentNode.parentElement;
      if (!text || element.closest("svg, script, noscript") || !element.checkVisibility()) continue;
      const sides = [pixel(getComputedStyle(element).color), behind(element)].map(luminance);
      const ratio = (Math.max(...sides) + 0.05) / (Math.min(...sides) + 0.05);
      const kind = `${element.tagName} ${element.className}`;
      if (!(found.get(kind)?.[1] <= ratio)) found.set(kind, [kind, ratio, text.slice(0, 40)]);
    }
    return [...found.values()];
  },
})
