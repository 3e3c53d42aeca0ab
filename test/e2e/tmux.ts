/** A real terminal for the dashboard: tmux, with a shell that starts the gateway as a user would. */
import { existsSync, readFileSync } from "node:fs";
import { BINARY, type TempFolder } from "./gateway.ts";

/** Null if tmux is not installed; `bun run setup` installs it if it can. */
export const TMUX = Bun.which("tmux");

/** Long enough for a machine whose cores are all busy. */
const PATIENCE_MS = 120_000;

export interface TmuxOptions {
  readonly args?: readonly string[];
  readonly width?: number;
  readonly height?: number;
  readonly env?: Readonly<Record<string, string>>;
  readonly binary?: string;
}

export class Tmux implements AsyncDisposable {
  readonly #socket = `gateway-test-${process.pid}-${Math.random().toString(36).slice(2)}`;
  readonly #raw: string;
  readonly #environment: Record<string, string>;

  private constructor(
    readonly folder: TempFolder,
    env: Readonly<Record<string, string>>,
  ) {
    this.#raw = folder.file("raw");
    this.#environment = {
      PATH: process.env.PATH ?? "",
      HOME: folder.path,
      LANG: "C.UTF-8",
      TZ: "UTC",
      ...env,
    };
  }

  /** Opens a terminal and types the gateway's command into its shell. */
  static async open(folder: TempFolder, options: TmuxOptions = {}): Promise<Tmux> {
    const { width = 120, height = 40, args = [], env = {}, binary = BINARY } = options;
    const terminal = new Tmux(folder, env);
    await terminal.#tmux(
      ...["-f", "/dev/null", "new-session", "-d", "-x", String(width), "-y", String(height)],
      ...["-c", folder.path, "bash --norc --noprofile -i"],
    );
    await terminal.#tmux("pipe-pane", `cat >> ${terminal.#raw}`);
    const given = [
      "--port",
      "0",
      "--ring-path",
      folder.ring,
      "--ring-capacity",
      "20000",
      "--llm-base-url",
      "off",
    ];
    await terminal.type(`PS1='shell> '; clear; ${[binary, ...given, ...args].join(" ")}; echo ended with $?`);
    await terminal.press("Enter");
    return terminal;
  }

  async #tmux(...args: string[]): Promise<string> {
    const child = Bun.spawn([TMUX ?? "tmux", "-L", this.#socket, ...args], {
      env: this.#environment,
      stdout: "pipe",
      stderr: "pipe",
    });
    const [out, error] = await Promise.all([
      new Response(child.stdout).text(),
      new Response(child.stderr).text(),
    ]);
    if ((await child.exited) !== 0) throw new Error(`tmux ${args.join(" ")}: ${error}`);
    return out;
  }

  async type(text: string): Promise<void> {
    await this.#tmux("send-keys", "-l", text);
  }

  /** Presses keys by tmux's names: "j", "Enter", "C-c", "BTab". */
  async press(...keys: string[]): Promise<void> {
    for (const key of keys) await this.#tmux("send-keys", key);
  }

  /** The text on the screen; if `styled`, with its colours as escape sequences. */
  screen(styled = false): Promise<string> {
    return this.#tmux("capture-pane", "-p", ...(styled ? ["-e"] : []));
  }

  /** The value of one of tmux's variables, such as "alternate_on". */
  async says(variable: string): Promise<string> {
    return (await this.#tmux("display-message", "-p", `#{${variable}}`)).trim();
  }

  async resize(width: number, height: number): Promise<void> {
    await this.#tmux("resize-window", "-x", String(width), "-y", String(height));
  }

  /** Every byte written to the terminal so far. */
  raw(): Buffer {
    return readFileSync(this.#raw);
  }

  /** Waits until `holds` accepts the screen. */
  async until(
    what: string,
    holds: (screen: string) => boolean | Promise<boolean>,
    timeoutMs = PATIENCE_MS,
  ): Promise<string> {
    const untilMs = performance.now() + timeoutMs;
    for (;;) {
      const screen = await this.screen();
      if (await holds(screen)) return screen;
      if (performance.now() > untilMs)
        throw new Error(`${what}: not within ${timeoutMs} ms; the screen:\n${screen}`);
      await Bun.sleep(50);
    }
  }

  shows(text: string | RegExp): Promise<string> {
    const found = (screen: string): boolean =>
      typeof text === "string" ? screen.includes(text) : text.test(screen);
    return this.until(`the screen shows ${text}`, found);
  }

  /** The gateway's address, as the dashboard's header shows it. */
  async url(): Promise<string> {
    const screen = await this.shows(/127\.0\.0\.1:\d+ /);
    return `http://${/127\.0\.0\.1:\d+/.exec(screen)?.[0]}`;
  }

  /** The gateway's process id: the shell's only child. */
  async pid(): Promise<number> {
    const shell = await this.says("pane_pid");
    const children = readFileSync(`/proc/${shell}/task/${shell}/children`, "utf8").trim();
    return Number(children.split(" ")[0]);
  }

  /** Ends the terminal as a closed window does: its programs get SIGHUP. Waits until the gateway has ended. */
  async hangUp(): Promise<void> {
    const pid = await this.pid().catch(() => 0);
    await this.#tmux("kill-server").catch(() => "");
    const untilMs = performance.now() + PATIENCE_MS;
    while (pid !== 0 && existsSync(`/proc/${pid}`)) {
      if (performance.now() > untilMs) {
        process.kill(pid, "SIGKILL");
        throw new Error(`the gateway still ran ${PATIENCE_MS} ms after its terminal had closed`);
      }
      await Bun.sleep(20);
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.hangUp();
  }
}
