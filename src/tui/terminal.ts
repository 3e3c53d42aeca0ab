/**
 * The terminal: draws a screen when something has changed, and passes keys, clicks and signals on to the face (tui.ts). OpenTUI is loaded
 * when a dashboard opens, so a headless gateway never loads it.
 */
import { closeSync, constants, openSync, writeSync } from "node:fs";
import { type Clock, systemClock } from "../clock.ts";
import { isWritable, rememberTerminal } from "../native/libc.ts";
import { keyPress, type TerminalKey } from "./key-press.ts";
import type { Action, DashboardSnapshot, KeyPress, Ui } from "./model.ts";
import { Pace } from "./pace.ts";
import { Painter, type Surface } from "./painter.ts";
import type { Screen, Size, Target } from "./screen.ts";
import type { Reduced } from "./state.ts";

type OpenTui = typeof import("../native/opentui.ts");
type Renderer = Awaited<ReturnType<OpenTui["createCliRenderer"]>>;

const WHEEL_ROWS = 3;
/** @bound the dashboard waits at its end for a terminal that does not read | the terminal is left as it is */
const CLOSE_MS_MAX = 500;
const CLOSE_LOOK_MS = 10;
/** The last words wait for room so long, each time. */
const WRITE_MS_MAX = 200;
const STDIN = 0;
const STDOUT = 1;
const OWN_STDOUT = process.platform === "linux" ? "/proc/self/fd/1" : "/dev/tty";

/** The pure half of the dashboard, in tui.ts. */
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

/** What the dashboard shows, and who carries out what the user asks for. */
export interface Feed {
  snapshot(): DashboardSnapshot;
  act(action: Action): void;
  onChange: () => void;
}

export interface TerminalOptions {
  readonly feed: Feed;
  readonly noColor: boolean;
  /** The user wants to quit; a second call means at once. */
  readonly quit: () => void;
  /** The dashboard has failed and closed; the gateway goes on. */
  readonly failed: (error: unknown) => void;
  /** For tests: a renderer over their own streams, and where everything else is written. */
  readonly createRenderer?: (tui: OpenTui) => Promise<Renderer>;
  readonly write?: (text: string) => void;
  readonly isWritable?: () => boolean;
  readonly clock?: Clock;
  /** Gives the terminal the modes that it had. */
  readonly restoreModes?: () => void;
}

/** Why no dashboard can open; null if one can. */
export function whyNoTerminal(o: {
  readonly stdinIsTty: boolean;
  readonly stdoutIsTty: boolean;
  readonly term: string | undefined;
}): string | null {
  if (!o.stdoutIsTty) return "standard output is not a terminal";
  if (!o.stdinIsTty) return "standard input is not a terminal";
  if (o.term === undefined || o.term === "" || o.term === "dumb")
    return `TERM is ${o.term || "not set"}: this terminal cannot position text`;
  return null;
}

/** Undoes every terminal mode that OpenTUI sets, for when OpenTUI itself no longer can. */
const RESTORE =
  "\x1b[?2026l\x1b[<u\x1b[>4;0m\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?1004l\x1b[?2004l\x1b[?2031l\x1b[0m\x1b[?25h\x1b[?1049l";
/** Tells the terminal not to reorder right-to-left text, which would also move what stands beside it (ECMA-48 BDSM). */
const EXPLICIT_DIRECTION = "\x1b[8l";
const IMPLICIT_DIRECTION = "\x1b[8h";

/**
 * Writes to the terminal, and gives up if it does not read. A file of its own makes these writes non-blocking: the flag on standard
 * output itself would hold for the shell, too.
 */
function writeOut(text: string): void {
  let fd: number | null = null;
  try {
    fd = openSync(OWN_STDOUT, constants.O_WRONLY | constants.O_NONBLOCK | constants.O_NOCTTY);
    for (let rest = new TextEncoder().encode(text); rest.length > 0; ) {
      if (!isWritable(fd, WRITE_MS_MAX)) return;
      rest = rest.subarray(writeSync(fd, rest));
    }
  } catch {
    // The terminal is gone, or full.
  } finally {
    if (fd !== null) closeSync(fd);
  }
}

/**
 * Opens the dashboard over the whole terminal.
 * @throws what OpenTUI throws if it cannot use the terminal, which is then as it was.
 */
export async function openTerminal(face: Face, options: TerminalOptions): Promise<Terminal> {
  const tui = await import("../native/opentui.ts");
  const restoreModes = options.restoreModes ?? rememberTerminal(STDIN);
  const create = options.createRenderer ?? createRenderer;
  return new Terminal(face, { ...options, restoreModes }, tui, await create(tui));
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
  readonly #renderer: Renderer;
  readonly #clock: Clock;
  readonly #pace: Pace;
  readonly #painter: Painter;
  readonly #write: (text: string) => void;
  readonly #isWritable: () => boolean;
  #ui: Ui;
  #screen: Screen | null = null;
  #suspended = false;
  #closing: Promise<void> | null = null;
  readonly #signals: [NodeJS.Signals, () => void][];
  /** Screens drawn so far. */
  draws = 0;

  constructor(face: Face, options: TerminalOptions, tui: OpenTui, renderer: Renderer) {
    this.#face = face;
    this.#o = options;
    this.#renderer = renderer;
    this.#clock = options.clock ?? systemClock;
    this.#pace = new Pace(this.#clock, () => this.#guard(() => this.#draw()));
    this.#painter = new Painter(tui, options.noColor);
    this.#ui = face.firstUi(!options.noColor);
    this.#write = options.write ?? writeOut;
    this.#isWritable = options.isWritable ?? (() => isWritable(STDOUT, 0));
    this.#signals = [
      ["SIGTSTP", () => void this.#suspend()],
      ["SIGCONT", () => void this.#resume()],
    ];
    const paint = (buffer: Surface): void => this.#guard(() => this.#paint(buffer));
    const surface = new (class extends tui.Renderable {
      protected override renderSelf(buffer: Surface): void {
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

  /** If `action` throws, the dashboard closes and the gateway goes on. */
  #guard(action: () => void): void {
    try {
      action();
    } catch (error) {
      void this.close().then(() => this.#o.failed(error));
    }
  }

  #key(key: TerminalKey): void {
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

  #changed(): void {
    if (this.#closing === null && !this.#suspended) this.#pace.request();
  }

  #draw(): void {
    const screen = this.#face.view(this.#o.feed.snapshot(), this.#size, this.#ui);
    const same = this.#screen !== null && Bun.deepEquals(this.#screen.ops, screen.ops);
    const moved = !same || !Bun.deepEquals(this.#screen?.cursor, screen.cursor);
    this.#screen = screen;
    if (!moved) return;
    this.draws += 1;
    const { cursor } = screen;
    this.#renderer.setCursorPosition((cursor?.x ?? 0) + 1, (cursor?.y ?? 0) + 1, cursor !== null);
    for (const child of this.#renderer.root.getChildren()) child.requestRender();
  }

  #paint(surface: Surface): void {
    this.#pace.measure(() => this.#painter.paint(surface, this.#screen?.ops ?? []));
  }

  #redraw(): void {
    // A resize, even to the same size, sends everything again.
    this.#renderer.resize(this.#renderer.width, this.#renderer.height);
    this.#screen = null;
  }

  /** Gives the terminal back and stops the process, as Ctrl-Z does elsewhere. */
  async #suspend(): Promise<void> {
    if (this.#suspended || this.#closing !== null) return;
    this.#suspended = true;
    this.#pace[Symbol.dispose]();
    try {
      await this.#renderer.suspend();
      this.#write(IMPLICIT_DIRECTION);
    } finally {
      process.kill(process.pid, "SIGSTOP");
    }
  }

  /** Takes the terminal again after a stop of any kind: the shell has used it meanwhile. */
  async #resume(): Promise<void> {
    if (this.#closing !== null) return;
    try {
      if (!this.#suspended) {
        this.#suspended = true;
        this.#pace[Symbol.dispose]();
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

  /** Gives the terminal back as it was. May be called more than once. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    this.#o.feed.onChange = () => {};
    this.#pace[Symbol.dispose]();
    for (const [signal, handle] of this.#signals) process.off(signal, handle);
    // OpenTUI writes without looking, on this thread, and waits for its own thread, which may be writing.
    if (!(await this.#takesOutput())) {
      this.restoreNow();
      // OpenTUI destroys its renderers when the process exits, which would wait here for ever.
      process.removeAllListeners("exit");
      return;
    }
    this.#renderer.destroy();
    const closed = this.#renderer.closed.then(
      () => true,
      () => false,
    );
    if (!(await Promise.race([closed, this.#clock.sleep(CLOSE_MS_MAX).then(() => false)]))) this.restoreNow();
    this.#write(IMPLICIT_DIRECTION);
  }

  /** Whether the terminal reads what is written to it. Waits a little for that. */
  async #takesOutput(): Promise<boolean> {
    const untilMs = this.#clock.monotonicMs() + CLOSE_MS_MAX;
    while (!this.#isWritable()) {
      if (this.#clock.monotonicMs() >= untilMs) return false;
      await this.#clock.sleep(CLOSE_LOOK_MS);
    }
    return true;
  }

  /** Gives the terminal back without waiting for anything: the process is about to exit. */
  restoreNow(): void {
    this.#write(RESTORE + IMPLICIT_DIRECTION);
    this.#o.restoreModes?.();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}
