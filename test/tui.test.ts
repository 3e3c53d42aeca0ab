import { afterEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import fc from "fast-check";
import { createTestRenderer } from "../src/native/opentui.ts";
import type { Action, DashboardSnapshot } from "../src/tui/model.ts";
import { firstUi } from "../src/tui/state.ts";
import { widthOf } from "../src/tui/text.ts";
import { KEYS, openTui, TABS, type Terminal, view } from "../tui.ts";
import { FakeClock } from "./fake-clock.ts";
import { busy, degraded, empty, eventRow, HOSTILE, hostile, NOW_US, wide, withText } from "./tui/fixtures.ts";

// Screens show local times of day.
process.env.TZ = "UTC";
const seed = Number(process.env.FC_SEED ?? Date.now() % 1e9);
console.log(`tui: FC_SEED=${seed}`);

const SMALL = { width: 80, height: 24 };
const LARGE = { width: 120, height: 40 };
/** Longer than any pause between two screens. */
const DRAW_MS = 1000;

type Setup = Awaited<ReturnType<typeof createTestRenderer>>;

/** Long enough for a machine whose cores are all busy. */
const PATIENCE_MS = 30_000;
setDefaultTimeout(2 * PATIENCE_MS);

/** Lets OpenTUI read its input until `holds` returns true. */
async function waitFor(what: () => string, holds: () => boolean | Promise<boolean>): Promise<void> {
  const untilMs = performance.now() + PATIENCE_MS;
  while (!(await holds())) {
    if (performance.now() > untilMs) throw new Error(what());
    await Bun.sleep(1);
  }
}

/** The dashboard on a screen in memory, over a feed that a test changes by hand. */
class Stage implements AsyncDisposable {
  readonly actions: Action[] = [];
  readonly failures: unknown[] = [];
  readonly clock = new FakeClock();
  quits = 0;
  written = "";
  feed = {
    snapshot: (): DashboardSnapshot => this.current,
    act: (action: Action): void => void this.actions.push(action),
    onChange: (): void => {},
  };
  private constructor(
    public current: DashboardSnapshot,
    readonly setup: Setup,
    public terminal: Terminal,
  ) {}

  static async open(snapshot: DashboardSnapshot, size = SMALL, noColor = false): Promise<Stage> {
    const setup = await createTestRenderer({ ...size });
    const stage = new Stage(snapshot, setup, null as unknown as Terminal);
    stage.terminal = await openTui({
      feed: stage.feed,
      noColor,
      quit: () => {
        stage.quits += 1;
      },
      failed: (error) => void stage.failures.push(error),
      createRenderer: async () => setup.renderer,
      clock: stage.clock,
      write: (text) => {
        stage.written += text;
      },
    });
    await stage.drawn(0);
    return stage;
  }

  /** Waits until more than `draws` screens were drawn. */
  async drawn(draws: number): Promise<string> {
    await waitFor(
      () => `no screen after ${draws}:\n${this.frame()}`,
      async () => {
        await this.clock.advance(DRAW_MS);
        return this.terminal.draws > draws;
      },
    );
    await this.setup.renderOnce();
    return this.frame();
  }

  frame(): string {
    return this.setup.captureCharFrame();
  }

  async show(snapshot: DashboardSnapshot): Promise<string> {
    const { draws } = this.terminal;
    this.current = snapshot;
    this.feed.onChange();
    return this.drawn(draws);
  }

  /** Presses a key that changes the screen. */
  async press(key: string, modifiers: Parameters<Setup["mockInput"]["pressKey"]>[1] = {}): Promise<string> {
    const { draws } = this.terminal;
    this.setup.mockInput.pressKey(key, modifiers);
    return this.drawn(draws);
  }

  /** Waits for a screen that shows a text. */
  async until(text: string): Promise<string> {
    await waitFor(
      () => `"${text}" does not appear:\n${this.frame()}`,
      async () => {
        await this.clock.advance(DRAW_MS);
        await this.setup.renderOnce();
        return this.frame().includes(text);
      },
    );
    return this.frame();
  }

  holds(what: () => boolean): Promise<void> {
    return waitFor(
      () => `${what} does not come to hold:\n${this.frame()}`,
      async () => {
        await this.clock.advance(DRAW_MS);
        return what();
      },
    );
  }

  async type(text: string): Promise<void> {
    await this.setup.mockInput.typeText(text);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.terminal.close();
  }
}

const stages: Stage[] = [];
async function open(...args: Parameters<typeof Stage.open>): Promise<Stage> {
  const stage = await Stage.open(...args);
  stages.push(stage);
  return stage;
}
afterEach(async () => {
  for (const stage of stages.splice(0)) await stage[Symbol.asyncDispose]();
});

const STATES = { empty, busy, degraded, wide, hostile } as const;

describe("screens", () => {
  for (const [name, make] of Object.entries(STATES)) {
    for (const size of [SMALL, LARGE]) {
      test(`each tab, ${name}, at ${size.width}×${size.height}`, async () => {
        const stage = await open(make(), size);
        for (const [index, tab] of TABS.entries()) {
          const frame = index === 0 ? stage.frame() : await stage.press(String(index + 1));
          expect(frame).toMatchSnapshot(tab);
          const lines = frame.split("\n").slice(0, size.height);
          expect(lines.length).toBe(size.height);
          // The right-hand edges stand under one another, whatever the text to their left.
          for (const line of lines) expect(widthOf(line)).toBe(size.width);
          const edges = lines.slice(5, -2).map((line) => line.at(-1));
          expect(new Set(edges.filter((edge) => !"╭╮╰╯".includes(edge ?? "")))).toEqual(new Set(["│"]));
        }
      });
    }
  }

  test("detail, help, log and an open schema", async () => {
    const stage = await open(busy());
    expect(await stage.press("RETURN")).toMatchSnapshot("events before its detail has come");
    const { detail } = busy();
    if (detail === null) throw new Error("the fixture has a detail");
    stage.current = { ...busy(), detail: { ...detail, seq: 1000 } };
    stage.feed.onChange();
    expect(await stage.until("9007199254740993")).toMatchSnapshot("detail");
    await stage.press("ESCAPE");
    expect(await stage.press("?")).toMatchSnapshot("help");
    await stage.press("ESCAPE");
    expect(await stage.press("l")).toMatchSnapshot("log");
    await stage.press("l");
    await stage.press("3");
    expect(await stage.press("RETURN")).toMatchSnapshot("schema");
  });

  test("nothing is drawn outside the screen at any size, and below 80×24 the screen says how much is needed", () => {
    const ui = firstUi();
    for (let width = 10; width <= 300; width += 29) {
      for (let height = 3; height <= 100; height += 7) {
        const size = { width, height };
        for (const tab of TABS) {
          const screen = view(busy(), size, { ...ui, tab });
          for (const { x, y, text } of screen.ops) {
            expect(x >= 0 && y >= 0 && y < height && x + widthOf(text) <= width).toBe(true);
          }
          const text = screen.ops.map((op) => op.text).join("\n");
          expect(text.includes(`this terminal has ${width}×${height}`)).toBe(
            (width < 80 || height < 24) && width >= 28 && height >= 2,
          );
        }
      }
    }
  });

  test("a screen is a function of its arguments alone", () => {
    for (const tab of TABS) {
      const ui = { ...firstUi(), tab };
      expect(view(hostile(), LARGE, ui)).toEqual(view(hostile(), LARGE, ui));
    }
  });

  test("no text from outside brings a control, invisible or unknown character to the screen", () => {
    const text = fc.oneof(
      fc.string({ unit: "binary", maxLength: 40 }),
      fc
        .array(fc.oneof(fc.constantFrom(...HOSTILE), fc.string()), { maxLength: 4 })
        .map((parts) => parts.join("")),
    );
    const texts = fc.array(text, { minLength: 30, maxLength: 30 });
    fc.assert(
      fc.property(texts, fc.constantFrom(...TABS), fc.boolean(), (strings, tab, special) => {
        const snapshot = withText((index) => strings[index % strings.length] ?? "");
        const drafts = { text: strings[0] ?? "", cursor: 0 };
        const ui = {
          ...firstUi(),
          tab,
          drawer: special,
          schemaOpen: special,
          chatDraft: drafts,
          filter: strings[1] ?? "",
          detail: special && tab === "events" ? { seq: 998, scroll: 0 } : null,
          selectedFrame: special ? 190 : null,
        };
        for (const op of view(snapshot, LARGE, ui).ops) {
          expect(/[\p{C}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}]/u.test(op.text)).toBe(false);
        }
      }),
      { seed, numRuns: 150 },
    );
  }, 60_000);
});

describe("states", () => {
  test("no events, draining, stale, degraded and down differ in words", async () => {
    const stage = await open(empty());
    expect(stage.frame()).toContain("No events yet");
    expect(stage.frame()).toContain("curl http://127.0.0.1:9382/ingest");
    const store = {
      ...busy(),
      parts: { ...busy().parts, store: { state: "degraded", detail: "it is full" } },
    };
    expect(await stage.show(store)).toContain("▲ store degraded: it is full");
    const late = { ...store, sampledUs: NOW_US - 9e6 };
    expect(await stage.show(late)).toContain("▲ stale for 9 s");
    const down = { ...late, parts: { ...late.parts, ring: { state: "down", detail: "no space" } } };
    expect(await stage.show(down)).toContain("▲ ring down: no space");
    expect(await stage.show({ ...down, draining: true })).toContain(
      "▲ draining: finishing what was received",
    );
    expect(await stage.show(busy())).not.toContain("▲ ring");
  });

  test("without colours nothing is coloured, and particles are letters", async () => {
    const stage = await open(busy(), SMALL, true);
    const plain = await stage.press("2");
    const spans = stage.setup.captureSpans().lines.flatMap((line) => line.spans);
    const written = spans.filter(({ text }) => text.trim() !== "");
    expect(written.length).toBeGreaterThan(50);
    expect(written.filter(({ fg, bg }) => fg.intent !== "default" || bg.intent !== "default")).toEqual([]);
    expect(plain).toMatch(/A cartao_perdido|A cancelamento/);
    expect(plain).not.toContain("⣿");
  });
});

describe("keys", () => {
  test("a tab opens with nothing focused, by number, Tab, Shift-Tab and click", async () => {
    const stage = await open(busy());
    const shown = (): string =>
      stage.actions.flatMap((action) => (action.kind === "show" ? [action.tab] : [])).join(" ");
    await stage.press("5");
    await stage.press("TAB");
    await stage.press("TAB", { shift: true });
    await stage.press("2");
    expect(shown()).toBe("metrics events metrics particles");
    const { draws } = stage.terminal;
    await stage.setup.mockMouse.click(40, 2);
    await stage.drawn(draws);
    expect(shown()).toBe("metrics events metrics particles chat");
    stage.setup.mockInput.pressKey("q");
    await stage.holds(() => stage.quits === 1);
  });

  test("/ filters as you type, Enter keeps the filter, Esc clears it", async () => {
    const stage = await open(busy());
    await stage.press("/");
    await stage.type("quero Q");
    const typed = await stage.until('"quero Q"');
    expect(typed).toContain("Quero cancelar");
    expect(typed).not.toContain("Obrigada");
    expect(stage.quits).toBe(0);
    await stage.press("RETURN");
    expect(await stage.until('"quero Q" 20 found')).not.toContain("Enter keep");
    expect(await stage.press("ESCAPE")).toContain("Obrigada");
  });

  test("a filter that leaves too few rows searches the store", async () => {
    const stage = await open(busy());
    await stage.press("/");
    await stage.type("nichts");
    await stage.until("Nothing matches");
    await stage.press("RETURN");
    expect(stage.actions.slice(-2)).toEqual([{ kind: "hold" }, { kind: "older", filter: "nichts" }]);
    const found = { ...stage.current.events, history: [eventRow(7, { message: "nichts gefunden" })] };
    expect(await stage.show({ ...stage.current, events: found })).toContain("nichts gefunden");
  });

  test("p pauses and counts what comes meanwhile; f follows again", async () => {
    const stage = await open(busy());
    expect(stage.frame()).toContain("following");
    expect(await stage.press("p")).toContain("paused");
    expect(stage.actions.at(-1)).toEqual({ kind: "hold" });
    const newer = { ...stage.current, events: { ...stage.current.events, newer: 1234 } };
    expect(await stage.show(newer)).toContain("paused, 1,234 newer");
    expect(await stage.press("f")).toContain("following");
    expect(stage.actions.at(-1)).toEqual({ kind: "release" });
  });

  test("j, k, arrows, g and G move; near the oldest row, older ones are requested", async () => {
    const stage = await open(busy());
    const marked = (frame: string): string => /▶(\S+ \S+)/.exec(frame)?.[1] ?? "none";
    const first = marked(await stage.press("j"));
    const second = marked(await stage.press("ARROW_DOWN"));
    expect(marked(await stage.press("k"))).toBe(first);
    expect(second).not.toBe(first);
    await stage.press("G");
    expect(stage.actions.at(-1)).toEqual({ kind: "older", filter: "" });
    expect(await stage.press("g")).toContain("following");
  });

  test("Enter opens the event in full, Esc returns to the same place", async () => {
    const stage = await open(busy());
    await stage.press("j");
    await stage.press("j");
    await stage.press("RETURN");
    expect(stage.actions.at(-1)).toEqual({ kind: "detail", seq: 998 });
    expect(await stage.until("event 998")).toContain("9007199254740993");
    expect(await stage.press("ESCAPE")).toMatch(/▶/);
  });

  test("the selected event stays selected while others come", async () => {
    const stage = await open(busy());
    await stage.press("j");
    const rows = [...stage.current.events.rows, eventRow(1001), eventRow(1002)];
    await stage.show({ ...stage.current, events: { ...stage.current.events, rows } });
    await stage.press("RETURN");
    expect(stage.actions.at(-1)).toEqual({ kind: "detail", seq: 999 });
  });

  test("+ and - change how many particles are shown, c their colour, arrows select one", async () => {
    const stage = await open(busy());
    expect(await stage.press("2")).toContain("newest 256  by intent");
    expect(await stage.press("-")).toContain("newest 128");
    expect(await stage.press("+")).toContain("newest 256");
    expect(await stage.press("c")).toContain("by sentiment");
    expect(await stage.press("c")).toContain("by conversation");
    expect(await stage.press("ARROW_LEFT")).toContain("frame 200");
    const before = await stage.press("ARROW_LEFT");
    expect(before).toContain("selected");
    expect(before).toContain("frame 199");
    expect(before).toContain("◉");
    await stage.press("RETURN");
    expect(stage.actions.at(-1)).toEqual({ kind: "detail", seq: 199 });
  });

  test("in the chat, letters are written and not obeyed; Enter sends, Alt-Enter starts a new line, Esc leaves", async () => {
    const idle = { ...busy(), chat: { ...busy().chat, answering: false } };
    const stage = await open(idle);
    await stage.press("4");
    await stage.press("i");
    await stage.type("q 12 ação 日本");
    await stage.until("q 12 ação 日本");
    stage.setup.mockInput.pressKey("RETURN", { meta: true });
    await stage.type("linha 2");
    await stage.until("linha 2");
    expect(stage.quits).toBe(0);
    await stage.press("BACKSPACE");
    await stage.until("linha ");
    await stage.press("RETURN");
    expect(stage.actions.at(-1)).toEqual({ kind: "chat", text: "q 12 ação 日本\nlinha" });
    await stage.press("ARROW_UP");
    await stage.until("q 12 ação 日本");
    await stage.press("ESCAPE");
    stage.setup.mockInput.pressKey("q");
    await stage.holds(() => stage.quits === 1);
  });

  test("while a reply comes, a second message stays in the input; x stops the reply", async () => {
    const stage = await open(busy());
    await stage.press("4");
    await stage.press("i");
    await stage.type("mais");
    await stage.until("mais");
    stage.setup.mockInput.pressEnter();
    await stage.press("ESCAPE");
    expect(stage.actions.filter(({ kind }) => kind === "chat")).toEqual([]);
    stage.setup.mockInput.pressKey("x");
    await stage.holds(() => stage.actions.at(-1)?.kind === "chat-stop");
  });

  test("pasted text is written and not obeyed", async () => {
    const stage = await open(busy());
    await stage.press("/");
    await stage.setup.mockInput.pasteBracketedText("q\x1b[2J\nquit");
    await stage.until("q␛[2J quit");
    expect(stage.quits).toBe(0);
  });

  test("Ctrl-C quits, even from an input", async () => {
    const stage = await open(busy());
    await stage.press("/");
    stage.setup.mockInput.pressCtrlC();
    await stage.holds(() => stage.quits === 1);
  });

  test("the log opens at its newest line and marks its warnings as seen", async () => {
    const stage = await open(busy());
    expect(stage.frame()).toContain("1 in the log (l)");
    expect(await stage.press("l")).toContain("pull-model");
    expect(stage.actions.at(-1)).toEqual({ kind: "log-seen" });
    expect(await stage.press("l")).not.toContain("pull-model");
  });

  test("arrows change the span of the metrics", async () => {
    const stage = await open(busy());
    expect(await stage.press("5")).toContain("1 min");
    expect(await stage.press("ARROW_RIGHT")).toContain("10 min");
    expect(await stage.press("ARROW_RIGHT")).toContain("60 min");
    expect(await stage.press("ARROW_LEFT")).toContain("10 min");
  });

  test("the help names every key that has a help text, and no key means two things on a tab", () => {
    const text = view(busy(), { width: 300, height: 100 }, { ...firstUi(), help: true }).ops.map((op) =>
      op.text.trim(),
    );
    for (const { label, help } of KEYS.filter((key) => key.help !== "")) {
      expect(text).toContain(label);
      expect(text).toContain(help);
    }
    const tabs = [null, ...TABS];
    for (const tab of tabs) {
      const keys = KEYS.filter((key) => key.tab === tab).flatMap((key) => key.keys);
      expect(new Set(keys).size).toBe(keys.length);
    }
  });
});

describe("drawing", () => {
  test("a change that is not visible draws no screen", async () => {
    const stage = await open(busy());
    const { draws } = stage.terminal;
    let looks = 0;
    const { snapshot } = stage.feed;
    stage.feed.snapshot = () => {
      looks += 1;
      return snapshot();
    };
    for (let change = 1; change <= 3; change++) {
      stage.feed.onChange();
      await stage.clock.advance(DRAW_MS);
      expect(looks).toBe(change);
    }
    expect(stage.terminal.draws).toBe(draws);
    await stage.show({ ...stage.current, events: { ...stage.current.events, newer: 1, total: 1001 } });
    expect(stage.terminal.draws).toBe(draws + 1);
  });

  test("however often something changes, fifteen screens a second are drawn at most", async () => {
    const stage = await open(busy());
    const { draws } = stage.terminal;
    for (let change = 1; change <= 1000; change++) {
      const events = { ...stage.current.events, total: 1000 + change };
      stage.current = { ...stage.current, events };
      stage.feed.onChange();
      await stage.clock.advance(1);
    }
    expect(stage.terminal.draws - draws).toBe(15);
  });

  test("a resize gives a new screen, even to a size that is too small and back", async () => {
    const stage = await open(busy());
    stage.setup.resize(120, 40);
    await stage.until("conversation");
    stage.setup.resize(60, 20);
    await stage.until("needs 80×24");
    stage.setup.resize(80, 24);
    await stage.until("following");
  });

  test("a closed dashboard draws nothing more", async () => {
    const stage = await open(busy());
    const { onChange } = stage.feed;
    onChange();
    await stage.terminal.close();
    let looks = 0;
    stage.feed.snapshot = () => {
      looks += 1;
      return stage.current;
    };
    onChange();
    await stage.clock.advance(DRAW_MS);
    expect(looks).toBe(0);
  });

  test("a failure closes the dashboard, gives the terminal back and tells the gateway", async () => {
    const stage = await open(busy());
    stage.feed.snapshot = () => {
      throw new Error("a fault");
    };
    stage.feed.onChange();
    await stage.holds(() => stage.failures.length === 1);
    expect(String(stage.failures[0])).toContain("a fault");
    expect(stage.setup.renderer.isDestroyed).toBe(true);
    expect(stage.written.endsWith("\x1b[8h")).toBe(true);
  });
});
