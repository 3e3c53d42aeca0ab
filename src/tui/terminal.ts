/**
 * The terminal: draws screens when something has changed, fifteen times a second at most, and turns keys, clicks and signals into what the
 * face understands. OpenTUI is loaded when a dashboard opens, so that a headless gateway does without.
 */
import { writeSync } from "node:fs";
import type { Action, DashboardSnapshot, KeyPress, Ui } from "./model.ts";
import type { Screen, Size, Style, Target } from "./screen.ts";
import type { Reduced } from "./state.ts";

type OpenTui = typeof import("../native/opentui.ts");
type Renderer = Awaited<ReturnType<OpenTui["createCliRenderer"]>>;
type Buffer_ = Parameters<Parameters<Renderer["addPostProcessFn"]>[0]>[0];
type Color = InstanceType<OpenTui["RGBA"]>;

const DRAW_MS_MIN = 1000 / 15;
/** Drawing takes at most this share of the thread: where it is slow, it is done more rarely. */
const DRAW_SHARE_MAX = 0.05;
/** A timer that comes so late tells of a thread that is busy with what matters more; then it is drawn twice a second. */
const LATE_MS = 8;
const DRAW_MS_BUSY = 500;
const WHEEL_ROWS = 3;
/** A terminal that is gone takes no farewell: it is not waited for any longer. */
const CLOSE_MS_MAX = 1500;

/** The pure half: tui.ts. */
export interface Face {
  readonly view: (snapshot: DashboardSnapshot, size: Size, ui: Ui) => Screen;
  readonly press: (ui: Ui, key: KeyPress, snapshot: DashboardSnapshot, size: Size) => Reduced;
  readonly point: (
    ui: Ui,
    what: { readonly target: Target } | { readonly by: number },
    snapshot: DashboardSnapshot,
    size: Size,
  ) => Reduced;
  readonly pasted: (ui: Ui, text: string) => Reduced;
  readonly firstUi: (colors: boolean) => Ui;
}

export interface Feed {
  snapshot(): DashboardSnapshot;
  act(action: Action): void;
  onChange: () => void;
}

export interface TerminalOptions {
  readonly feed: Feed;
  readonly noColor: boolean;
  /** The user wants to leave; a second time: at once. */
  readonly quit: () => void;
  /** The dashboard has failed and is closed; the gateway goes on. */
  readonly failed: (error: unknown) => void;
  /** Of tests: a renderer over streams of theirs, and what is written beside it. */
  readonly createRenderer?: (tui: OpenTui) => Promise<Renderer>;
  readonly write?: (text: string) => void;
}

/** Why there can be no dashboard; null: there can. */
export function whyNoTerminal(o: {
  readonly stdinIsTty: boolean;
  readonly stdoutIsTty: boolean;
  readonly term: string | undefined;
}): string | null {
  if (!o.stdoutIsTty) return "standard output is no terminal";
  if (!o.stdinIsTty) return "standard input is no terminal";
  if (o.term === undefined || o.term === "" || o.term === "dumb")
    return `TERM is ${o.term || "not set"}: this terminal cannot place text`;
  return null;
}

/** What undoes all that OpenTUI asks of a terminal, for the case that it cannot do so itself any more. */
const RESTORE =
  "\x1b[?2026l\x1b[<u\x1b[>4;0m\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?1004l\x1b[?2004l\x1b[?2031l\x1b[0m\x1b[?25h\x1b[?1049l";
/** The terminal is asked not to turn right-to-left text round, which would carry away what stands beside it (ECMA-48 BDSM). */
const EXPLICIT_DIRECTION = "\x1b[8l";
const IMPLICIT_DIRECTION = "\x1b[8h";

function writeOut(text: string): void {
  try {
    writeSync(1, text);
  } catch {
    // The terminal is gone; there is nobody to tell.
  }
}

/**
 * Opens the dashboard over the whole terminal.
 * @throws what OpenTUI throws where the terminal cannot be had; it is then as it was.
 */
export async function openTerminal(face: Face, options: TerminalOptions): Promise<Terminal> {
  const tui = await import("../native/opentui.ts");
  const create = options.createRenderer ?? createRenderer;
  return new Terminal(face, options, tui, await create(tui));
}

function createRenderer(tui: OpenTui): Promise<Renderer> {
  return tui.createCliRenderer({
    exitOnCtrlC: false,
    exitSignals: [],
    consoleMode: "disabled",
    externalOutputMode: "passthrough",
    openConsoleOnError: false,
    autoFocus: false,
    useMouse: true,
    enableMouseMovement: false,
    maxFps: 60,
  });
}

export class Terminal implements AsyncDisposable {
  readonly #face: Face;
  readonly #o: TerminalOptions;
  readonly #tui: OpenTui;
  readonly #renderer: Renderer;
  readonly #colors = new Map<number | null, Color>();
  readonly #background: Color;
  readonly #write: (text: string) => void;
  #ui: Ui;
  #screen: Screen | null = null;
  #due: Timer | null = null;
  #dueMs = 0;
  #busy = false;
  #drawnMs = Number.NEGATIVE_INFINITY;
  #costMs = 0;
  #suspended = false;
  #closing: Promise<void> | null = null;
  readonly #signals: [NodeJS.Signals, () => void][];
  /** Screens drawn so far. */
  draws = 0;

  constructor(face: Face, options: TerminalOptions, tui: OpenTui, renderer: Renderer) {
    this.#face = face;
    this.#o = options;
    this.#tui = tui;
    this.#renderer = renderer;
    this.#ui = face.firstUi(!options.noColor);
    this.#write = options.write ?? writeOut;
    this.#background = tui.RGBA.defaultBackground();
    this.#signals = [
      ["SIGTSTP", () => void this.#suspend()],
      ["SIGCONT", () => void this.#resume()],
    ];
    const paint = (buffer: Buffer_): void => this.#paint(buffer);
    const surface = new (class extends tui.Renderable {
      protected override renderSelf(buffer: Buffer_): void {
        paint(buffer);
      }
    })(renderer, { width: "100%", height: "100%" });
    renderer.root.add(surface);
    surface.onMouseDown = ({ x, y }) => this.#guard(() => this.#click(x, y));
    surface.onMouseScroll = ({ scroll }) =>
      this.#guard(() => {
        if (scroll?.direction === "up") this.#reduce(this.#point({ by: -WHEEL_ROWS }));
        if (scroll?.direction === "down") this.#reduce(this.#point({ by: WHEEL_ROWS }));
      });
    renderer.keyInput.on("keypress", (key) => this.#guard(() => this.#key(key)));
    renderer.keyInput.on("paste", ({ bytes }) =>
      this.#guard(() => this.#reduce(face.pasted(this.#ui, new TextDecoder().decode(bytes)))),
    );
    renderer.on("resize", () => this.#changed());
    for (const [signal, handle] of this.#signals) process.on(signal, handle);
    this.#write(EXPLICIT_DIRECTION);
    options.feed.onChange = () => this.#changed();
    this.#changed();
  }

  get #size(): Size {
    return { width: this.#renderer.width, height: this.#renderer.height };
  }

  /** A fault of the dashboard ends the dashboard, not the gateway. */
  #guard(action: () => void): void {
    try {
      action();
    } catch (error) {
      void this.close().then(() => this.#o.failed(error));
    }
  }

  // ------------------------------------------------------------------------------------------------ input

  #key(key: {
    name: string;
    sequence: string;
    ctrl: boolean;
    shift: boolean;
    meta: boolean;
    option: boolean;
  }): void {
    const { feed } = this.#o;
    this.#reduce(this.#face.press(this.#ui, keyPress(key), feed.snapshot(), this.#size));
  }

  #point(what: Parameters<Face["point"]>[1]): Reduced {
    return this.#face.point(this.#ui, what, this.#o.feed.snapshot(), this.#size);
  }

  #click(x: number, y: number): void {
    const zone = this.#screen?.zones.findLast(
      (place) => x >= place.x && x < place.x + place.width && y >= place.y && y < place.y + place.height,
    );
    if (zone !== undefined) this.#reduce(this.#point({ target: zone.target }));
  }

  #reduce({ ui, actions }: Reduced): void {
    this.#ui = ui;
    for (const action of actions) {
      if (action.kind === "quit") this.#o.quit();
      else if (action.kind === "suspend") void this.#suspend();
      else if (action.kind === "redraw") this.#redraw();
      else if (action.kind === "mouse") this.#renderer.useMouse = action.on;
      else this.#o.feed.act(action);
    }
    this.#changed();
  }

  // ---------------------------------------------------------------------------------------------- drawing

  #changed(): void {
    if (this.#due !== null || this.#closing !== null || this.#suspended) return;
    const nowMs = performance.now();
    const pauseMs = Math.max(this.#busy ? DRAW_MS_BUSY : DRAW_MS_MIN, this.#costMs / DRAW_SHARE_MAX);
    const waitMs = Math.max(0, this.#drawnMs + pauseMs - nowMs);
    this.#dueMs = nowMs + waitMs;
    this.#due = setTimeout(() => this.#guard(() => this.#draw()), waitMs);
  }

  #draw(): void {
    this.#due = null;
    if (this.#closing !== null || this.#suspended) return;
    const startedMs = performance.now();
    this.#busy = startedMs - this.#dueMs > LATE_MS;
    const screen = this.#face.view(this.#o.feed.snapshot(), this.#size, this.#ui);
    this.#drawnMs = startedMs;
    const same = this.#screen !== null && Bun.deepEquals(this.#screen.ops, screen.ops);
    const moved = !same || !Bun.deepEquals(this.#screen?.cursor, screen.cursor);
    this.#screen = screen;
    this.#costMs = performance.now() - startedMs;
    if (!moved) return;
    this.draws += 1;
    const { cursor } = screen;
    this.#renderer.setCursorPosition((cursor?.x ?? 0) + 1, (cursor?.y ?? 0) + 1, cursor !== null);
    for (const child of this.#renderer.root.getChildren()) child.requestRender();
  }

  #paint(buffer: Buffer_): void {
    const startedMs = performance.now();
    try {
      for (const { x, y, text, style } of this.#screen?.ops ?? [])
        buffer.drawText(text, x, y, this.#color(style), this.#background, this.#attributes(style));
    } catch (error) {
      this.#guard(() => {
        throw error;
      });
    }
    this.#costMs += performance.now() - startedMs;
  }

  #color({ color }: Style): Color {
    const wanted = this.#o.noColor ? null : color;
    let found = this.#colors.get(wanted);
    if (found === undefined) {
      const { RGBA } = this.#tui;
      found = wanted === null ? RGBA.defaultForeground() : RGBA.fromIndex(wanted);
      this.#colors.set(wanted, found);
    }
    return found;
  }

  #attributes({ bold, dim, inverse, underline }: Style): number {
    const { BOLD, DIM, INVERSE, UNDERLINE } = this.#tui.TextAttributes;
    return (bold ? BOLD : 0) | (dim ? DIM : 0) | (inverse ? INVERSE : 0) | (underline ? UNDERLINE : 0);
  }

  #redraw(): void {
    // Of the same size again: everything is sent anew.
    this.#renderer.resize(this.#renderer.width, this.#renderer.height);
    this.#screen = null;
  }

  // --------------------------------------------------------------------------------------------- suspend

  /** Gives the terminal back and stops the process, as Ctrl-Z does elsewhere. */
  async #suspend(): Promise<void> {
    if (this.#suspended || this.#closing !== null) return;
    this.#suspended = true;
    try {
      await this.#renderer.suspend();
      this.#write(IMPLICIT_DIRECTION);
    } finally {
      process.kill(process.pid, "SIGSTOP");
    }
  }

  /** After a stop of any kind: the shell has used the terminal meanwhile. */
  async #resume(): Promise<void> {
    if (this.#closing !== null) return;
    try {
      if (!this.#suspended) {
        this.#suspended = true;
        await this.#renderer.suspend();
      }
      await this.#renderer.resume();
      this.#write(EXPLICIT_DIRECTION);
      this.#suspended = false;
      this.#redraw();
      this.#changed();
    } catch (error) {
      void this.close().then(() => this.#o.failed(error));
    }
  }

  // ----------------------------------------------------------------------------------------------- close

  /** Gives the terminal back as it was. May be called again. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    this.#o.feed.onChange = () => {};
    if (this.#due !== null) clearTimeout(this.#due);
    for (const [signal, handle] of this.#signals) process.off(signal, handle);
    this.#renderer.destroy();
    const closed = this.#renderer.closed.then(
      () => true,
      () => false,
    );
    if (!(await Promise.race([closed, Bun.sleep(CLOSE_MS_MAX).then(() => false)]))) this.restoreNow();
    this.#write(IMPLICIT_DIRECTION);
  }

  /** For an end that waits for nobody. */
  restoreNow(): void {
    this.#write(RESTORE + IMPLICIT_DIRECTION);
    try {
      process.stdin.setRawMode?.(false);
    } catch {
      // It is closed.
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

const NAMES: Readonly<Record<string, string>> = {
  return: "enter",
  kpenter: "enter",
  linefeed: "ctrl+j",
  esc: "escape",
};

/** OpenTUI's key under the name that the table knows, and the text that it would write. */
export function keyPress(key: {
  readonly name: string;
  readonly sequence: string;
  readonly ctrl: boolean;
  readonly shift: boolean;
  readonly meta: boolean;
  readonly option: boolean;
}): KeyPress {
  const alt = key.meta || key.option;
  const name = NAMES[key.name] ?? key.name;
  // Of one letter the letter itself says whether Shift was held, whatever the terminal's protocol.
  const letter = [...name].length === 1;
  if (letter && !key.ctrl && !alt) {
    const text = key.shift && name.toUpperCase() !== name ? name.toUpperCase() : name;
    return { id: text, text };
  }
  if (name === "space") return { id: " ", text: " " };
  const id = `${key.ctrl && !name.startsWith("ctrl+") ? "ctrl+" : ""}${alt ? "alt+" : ""}${key.shift ? "shift+" : ""}${name}`;
  const plain = !key.ctrl && !alt && !/[\p{C}]/u.test(key.sequence);
  return {
    id,
    text:
      plain && name.length > 1 && key.sequence.length > 0 && !key.sequence.startsWith("\x1b")
        ? key.sequence
        : null,
  };
}
