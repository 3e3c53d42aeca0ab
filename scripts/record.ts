/**
 * Records the dashboard of `one_file_gateway demo`: docs/dashboard.cast (asciicast v2; `asciinema play` shows it) and
 * docs/dashboard-TAB.svg, a picture of each tab. record-setting.ts adds labelled examples, webhooks and a stand-in for the model. Takes
 * three minutes; needs the built executable and tmux.
 *
 *   bun scripts/record.ts [recording | pictures]
 */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { BINARY, TempFolder } from "../test/e2e/gateway.ts";
import { Tmux } from "../test/e2e/tmux.ts";
import { TABS } from "../tui.ts";
import { CHAT, furnish, standIn } from "./record-setting.ts";
import { fail, ROOT, step } from "./steps.ts";

const CAST = { width: 100, height: 30 };
const PICTURE = { width: 110, height: 30 };
/** How long the demo runs before the pictures are taken. */
const TALK_MS = 60_000;

/** Each key or text that is sent in the recording, and for how many seconds its screen stays. */
const SCENES: readonly (readonly [key: string, seconds: number])[] = [
  ["", 9],
  ["j", 1],
  ["j", 1],
  ["\r", 4],
  ["\x1b", 1.5],
  ["f", 3],
  ["2", 2],
  ["-", 7],
  ["\x1b[D", 1.5],
  ["\x1b[D", 3],
  ["3", 4],
  ["\r", 3],
  ["\x1b", 1],
  ["4", 1.5],
  ["i", 1],
  [CHAT[0].message, 1.5],
  ["\r", 4],
  [CHAT[1].message, 1.5],
  ["\r", 4],
  ["\x1b", 1.5],
  ["5", 6],
  ["?", 3],
  ["\x1b", 1.5],
  ["1", 3],
];

async function recordCast(): Promise<string> {
  using folder = new TempFolder();
  const decoder = new TextDecoder();
  const events: [number, "o", string][] = [];
  let startedMs: number | null = null;
  const model = standIn();
  const ended = new AbortController();
  const listening = Promise.withResolvers<string>();
  const options = ["--port", "0", "--ring-path", folder.ring, "--ring-capacity", "20000"];
  options.push("--llm-base-url", model.url, "--db-path", "events.duckdb");
  const child = Bun.spawn([BINARY, "demo", ...options], {
    cwd: folder.path,
    env: { TERM: "xterm-256color", LANG: "C.UTF-8", TZ: "UTC" },
    terminal: {
      cols: CAST.width,
      rows: CAST.height,
      data: (_, data) => {
        const text = decoder.decode(data, { stream: true });
        const url = /listening on (http:\/\/[\d.]+:\d+)/.exec(text)?.[1];
        if (url !== undefined) listening.resolve(url);
        // Everything before the dashboard's own screen is the log of the start.
        const from = startedMs === null ? text.indexOf("\x1b[?1049h") : 0;
        if (from < 0) return;
        startedMs ??= performance.now();
        events.push([(performance.now() - startedMs) / 1000, "o", text.slice(from)]);
      },
    },
  });
  await furnish(await listening.promise, ended.signal);
  for (const [key, seconds] of SCENES) {
    if (key !== "") child.terminal?.write(key);
    await Bun.sleep(seconds * 1000);
  }
  child.terminal?.write("q");
  await child.exited;
  ended.abort();
  await model.stop();
  const header = { version: 2, ...CAST, title: "one-file gateway", env: { TERM: "xterm-256color" } };
  const lines = events.map(([at, kind, text]) => JSON.stringify([Math.round(at * 1000) / 1000, kind, text]));
  const cast = `${[JSON.stringify(header), ...lines].join("\n")}\n`;
  writeFileSync(join(ROOT, "docs", "dashboard.cast"), cast);
  return `docs/dashboard.cast, ${Math.round(cast.length / 1000)} KB`;
}

async function takePictures(): Promise<string> {
  using folder = new TempFolder();
  const model = standIn();
  const ended = new AbortController();
  const args = ["demo", "--llm-base-url", model.url, "--db-path", "events.duckdb"];
  await using terminal = await Tmux.open(folder, { args, ...PICTURE });
  await terminal.shows("following");
  await furnish(await terminal.url(), ended.signal);
  await Bun.sleep(TALK_MS);
  for (const [index, tab] of TABS.entries()) {
    await terminal.press(String(index + 1));
    if (tab === "chat") await talk(terminal);
    // Fewer particles: the newest are mostly messages of the demo.
    if (tab === "particles") await terminal.press("-");
    // Particles settle after a few updates of the plane.
    await Bun.sleep(tab === "particles" ? 4000 : 1500);
    writeFileSync(
      join(ROOT, "docs", `dashboard-${tab}.svg`),
      svgOf(await terminal.screen(true), PICTURE, `The dashboard: ${tab}`),
    );
  }
  await terminal.press("q");
  await terminal.shows("ended with 0");
  ended.abort();
  await model.stop();
  return TABS.map((tab) => `docs/dashboard-${tab}.svg`).join(", ");
}

async function talk(terminal: Tmux): Promise<void> {
  await terminal.press("i");
  for (const { message, reply } of CHAT) {
    await terminal.type(message);
    await terminal.press("Enter");
    await terminal.shows(reply.slice(-20));
  }
  await terminal.press("Escape");
}

// ----------------------------------------------------------------------------------------------- pictures

/** Pixels. As high as the letters' own boxes, so that lines and blocks touch. */
const CELL = { width: 8.4, height: 16.3 };
const MARGIN = 12;
const INK = "#d6deeb";
const PAPER = "#101820";
/** A usual palette of a terminal. */
const PALETTE = [
  ...["#3b4252", "#ef6b73", "#8fd18a", "#e6c36a", "#6aa7f0", "#c792ea", "#5ccfe6", "#d6deeb"],
  ...["#5c6773", "#ff8a91", "#a8e6a3", "#ffd97d", "#8cc0ff", "#dcb0ff", "#8fe4f5", "#ffffff"],
];

interface Look {
  ink: string;
  bold: boolean;
  dim: boolean;
  inverse: boolean;
}

/** Applies one SGR sequence, as tmux writes them. */
function apply(look: Look, sequence: string): void {
  const codes = sequence.split(";").map(Number);
  for (let at = 0; at < codes.length; at++) {
    const code = codes[at] ?? 0;
    if (code === 0) Object.assign(look, { ink: INK, bold: false, dim: false, inverse: false });
    else if (code === 1) look.bold = true;
    else if (code === 2) look.dim = true;
    else if (code === 7) look.inverse = true;
    else if (code === 39) look.ink = INK;
    else if (code >= 30 && code <= 37) look.ink = PALETTE[code - 30] ?? INK;
    else if (code >= 90 && code <= 97) look.ink = PALETTE[code - 82] ?? INK;
    else if (code === 38 && codes[at + 1] === 5) {
      look.ink = PALETTE[codes[at + 2] ?? 7] ?? INK;
      at += 2;
    }
  }
}

/** The screen as SVG. Every run of letters has its own place, so it is aligned in any font. */
function svgOf(screen: string, { width, height }: { width: number; height: number }, title: string): string {
  const look: Look = { ink: INK, bold: false, dim: false, inverse: false };
  const parts: string[] = [];
  screen
    .split("\n")
    .slice(0, height)
    .forEach((line, row) => {
      let column = 0;
      // biome-ignore lint/suspicious/noControlCharactersInRegex: a terminal's colours are escape sequences
      for (const [, sequence, text] of line.matchAll(/\x1b\[([\d;]*)m|([^\x1b]+)/g)) {
        if (sequence !== undefined) apply(look, sequence);
        for (const run of text?.match(/[\x20-\x7e]+|([^\x20-\x7e])\1*/gu) ?? []) {
          const columns = Bun.stringWidth(run);
          parts.push(runOf(run, { column, row, columns }, look));
          column += columns;
        }
      }
    });
  const size = [width * CELL.width + 2 * MARGIN, height * CELL.height + 2 * MARGIN].map(Math.ceil);
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${size[0]}" height="${size[1]}" viewBox="0 0 ${size[0]} ${size[1]}"`,
    ` font-family="ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace" font-size="14">\n`,
    `<title>${title}</title>\n`,
    `<rect width="100%" height="100%" rx="8" fill="${PAPER}"/>\n`,
    parts.filter((part) => part !== "").join("\n"),
    "\n</svg>\n",
  ].join("");
}

function runOf(text: string, at: { column: number; row: number; columns: number }, look: Look): string {
  const x = (MARGIN + at.column * CELL.width).toFixed(1);
  const y = MARGIN + at.row * CELL.height;
  const length = (at.columns * CELL.width).toFixed(1);
  const block = look.inverse
    ? `<rect x="${x}" y="${y.toFixed(1)}" width="${length}" height="${CELL.height}" fill="${look.ink}"/>`
    : "";
  if (text.trim() === "") return block;
  const escaped = text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
  const weight = look.bold ? ' font-weight="bold"' : "";
  const faint = look.dim ? ' fill-opacity="0.6"' : "";
  const ink = look.inverse ? PAPER : look.ink;
  return (
    `${block}<text x="${x}" y="${(y + 13).toFixed(1)}" textLength="${length}" lengthAdjust="spacingAndGlyphs" ` +
    `fill="${ink}"${weight}${faint} xml:space="preserve">${escaped}</text>`
  );
}

if (import.meta.main) {
  try {
    const only = process.argv[2];
    if (only !== "pictures") await step("recording", recordCast);
    if (only !== "recording") await step("pictures", takePictures);
    process.exit(0);
  } catch (error) {
    fail(error);
  }
}
