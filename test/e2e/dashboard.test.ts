import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, rmSync } from "node:fs";
import { join } from "node:path";
import { bankingMessages, Gateway, TempFolder } from "./gateway.ts";
import { LlmStub } from "./llm-stub.ts";
import { TMUX, Tmux } from "./tmux.ts";

setDefaultTimeout(300_000);

const inTerminal = test.skipIf(TMUX === null);
if (TMUX === null)
  console.log(
    "dashboard: tmux is not installed, so these tests are skipped; bun run setup installs it if it can",
  );

async function post(url: string, body: string): Promise<void> {
  const headers = { "content-type": "application/x-ndjson" };
  const response = await fetch(`${url}/ingest`, { method: "POST", body, headers });
  expect(response.status).toBe(200);
  await response.arrayBuffer();
}

const messages = bankingMessages();

/** Posts all messages, a thousand at a time, in many conversations. */
async function postMessages(url: string): Promise<void> {
  for (let from = 0; from < messages.length; from += 1000) {
    const lines = messages.slice(from, from + 1000).map(({ text, category }, index) =>
      JSON.stringify({
        type: "UserMessage",
        conversation_id: `customer-${(from + index) % 300}`,
        message: text,
        intent: category,
        sentiment: Math.sin(from + index),
      }),
    );
    await post(url, lines.join("\n"));
  }
}

/** Expects the terminal to be as the shell had it. */
async function expectRestored(terminal: Tmux): Promise<void> {
  await terminal.until(
    "the terminal is given back",
    async () => (await terminal.says("alternate_on")) === "0" && (await terminal.says("cursor_flag")) === "1",
  );
  expect(await terminal.says("mouse_any_flag")).toBe("0");
  await terminal.type(`stty -a | tr ' ;' '\\n\\n' | grep -Ex '.?(icanon|echo|isig)' | tr '\\n' ,`);
  await terminal.press("Enter");
  await terminal.shows("isig,icanon,echo,");
}

const settled = (text: string): RegExp => new RegExp(`${text} events`);

describe("the dashboard in a terminal", () => {
  inTerminal(
    "10,003 real messages arrive; every tab, filter, detail and size shows them; q drains and quits",
    async () => {
      using folder = new TempFolder();
      await using terminal = await Tmux.open(folder, { args: ["--db-path", "events.duckdb"] });
      const empty = await terminal.shows("No events yet");
      expect(empty).toContain("1 Events   2 Particles   3 Schemas   4 Chat   5 Metrics");
      await postMessages(await terminal.url());
      expect(messages.length).toBe(10_003);
      const last = messages.at(-1)?.text ?? "";
      const events = await terminal.until(
        "all events are counted and the newest is shown with its intent",
        (screen) => settled("10,003").test(screen) && /country_support/.test(screen),
      );
      expect(events).toContain(last.slice(0, 20));
      expect(events).toContain("following");

      await terminal.press("2");
      await terminal.shows("by intent");
      await terminal.shows("% of the variance");
      await terminal.shows(/[⠁-⣿].*\n(.*\n)*.*[⠁-⣿]/);
      // From here on no frame is added, so the newest stays the newest.
      await terminal.shows(/newest.*frame 10003/);
      await terminal.press("Left");
      await terminal.press("Left");
      await terminal.shows(/selected.*frame 10002/);

      await terminal.press("3");
      await terminal.shows("schemas");
      await terminal.press("4");
      await terminal.shows("No model to talk to");
      await terminal.press("5");
      const metrics = await terminal.shows("refused, by code");
      expect(metrics).toMatch(/journal\s+ok/);
      await terminal.press("Right");
      await terminal.shows("10 min");

      await terminal.press("1", "/");
      await terminal.type("contactless");
      await terminal.press("Enter");
      // It is not among the newest events, so it comes from the store.
      await terminal.shows(/paused.*contactless.*found/);
      await terminal.until(
        "older messages are found",
        (screen) => (screen.match(/contactless/g) ?? []).length > 5,
      );
      await terminal.press("j", "Enter");
      const detail = await terminal.shows('"intent"');
      expect(detail).toMatch(/sentiment\s+-?\d\.\d\d {2}\(given\)/);
      await terminal.press("Escape");
      await terminal.shows("paused");
      await terminal.press("Escape");
      await terminal.shows("following");

      await terminal.resize(80, 24);
      await terminal.until(
        "the smaller screen is drawn",
        (screen) => screen.split("\n")[22]?.startsWith("╰") === true,
      );
      await terminal.resize(70, 20);
      await terminal.shows("needs 80×24");
      await terminal.resize(150, 50);
      await terminal.until(
        "the larger screen is drawn",
        (screen) => screen.split("\n")[48]?.startsWith("╰") === true,
      );
      await terminal.press("?");
      await terminal.shows("filter as you type");
      // Esc and a letter without a pause would be Alt and that letter.
      await terminal.press("Escape");
      await terminal.until("the help is closed", (screen) => !screen.includes("filter as you type"));

      await terminal.press("q");
      await terminal.shows("ended with 0");
      await expectRestored(terminal);
    },
  );

  inTerminal(
    "with a model: intents from examples and from updates, learned types, a chat that streams, and a model that stops answering",
    async () => {
      using folder = new TempFolder();
      await using stub = await LlmStub.start();
      const model = ["--llm-base-url", stub.baseUrl, "--frame-wait", "0", "--embedder", "hashing"];
      await using terminal = await Tmux.open(folder, { args: model });
      await terminal.shows("LLM ok stub-7b-instruct");
      const url = await terminal.url();
      for (const [label, examples] of Object.entries({
        CardArrival: ["meu cartão não chegou", "onde está meu cartão", "o cartão ainda não chegou"],
        PlanQuestion: ["qual é o meu plano", "que plano eu tenho", "o que tem no plano"],
      })) {
        const kept = await fetch(`${url}/api/intents/${label}`, {
          ...{ method: "PUT", body: JSON.stringify({ examples }) },
          headers: { "content-type": "application/json" },
        });
        expect(kept.status).toBe(200);
        await kept.arrayBuffer();
      }
      await post(url, '{"message":"onde está o meu cartão?"}\n{"message":"Quero um seguro pro meu carro"}');
      // The frames did not wait for the model, so its reply comes as an update.
      const events = await terminal.shows(/CarInsuranceR.*Quero um seguro/);
      expect(events).toMatch(/CardArrival.*onde está o meu cartão/);
      await terminal.press("Enter");
      await terminal.shows(/intent\s+CarInsuranceRequest, confidence 0\.90 {2}\(llm\)/);
      await terminal.press("Escape");
      await terminal.shows("paused");
      await terminal.press("j", "Enter");
      await terminal.shows(/intent\s+CardArrival, confidence \d\.\d\d {2}\(examples\)/);
      await terminal.press("Escape");
      await terminal.shows("paused");

      const insured = { type: "CarInsuranceRequest", car: { model: "Gol", year: 2019 } };
      await post(url, Array(60).fill(JSON.stringify(insured)).join("\n"));
      await post(url, JSON.stringify({ ...insured, car: { ...insured.car, color: "azul" } }));
      await terminal.press("3");
      const schemas = await terminal.shows("▲ 1 changed");
      expect(schemas).toMatch(/▶CarInsuranceRequest\s+6\d/);
      await terminal.press("Enter");
      const schema = await terminal.shows("seen first");
      expect(schema).toMatch(/car\.year\s+integer\s+█+\s+100%/);
      expect(schema).toContain("▲ car.color: new field");
      expect(schema).toContain('"car.model": "Gol"');
      await terminal.press("Escape");
      await terminal.until("the list is back", (screen) => !screen.includes("seen first"));

      await terminal.press("4");
      await terminal.shows("Ask the gateway");
      await terminal.type("i");
      await terminal.shows("Enter sends");
      // The first reply of a model comes in one piece.
      await terminal.type("oi");
      await terminal.press("Enter");
      await terminal.shows("Good day to you");
      const first = Promise.withResolvers<void>();
      stub.held = first.promise;
      // An input takes letters and digits that are commands elsewhere.
      await terminal.type("q1? Quero um seguro pro meu Uno");
      await terminal.shows("› q1? Quero um seguro pro meu Uno");
      await terminal.press("Enter");
      const streaming = await terminal.shows("Good▌");
      expect(streaming).toContain("a reply is coming");
      expect(streaming).toContain("│ CarInsuranceRequest");
      expect(streaming).toContain("✓ car.model: Uno");
      expect(streaming).toContain("○ car.year");
      first.resolve();
      await terminal.until("the reply has come", (screen) => screen.split("Good day to you").length === 3);
      stub.held = null;
      await terminal.press("Escape");
      await terminal.shows("i writes");
      await terminal.press("Enter");
      await terminal.shows("Enter sends");
      await terminal.type("é 日本 👍");
      // Alt-Enter.
      await terminal.press("M-Enter");
      await terminal.type("de 2015");
      await terminal.until("two lines", (screen) => /› é 日本 👍 .*\n.* de 2015 /.test(screen));
      await terminal.press("Enter");
      await terminal.shows("✓ car.year: 2015");
      await terminal.until("nothing is missing", (screen) => !screen.includes("missing"));

      const never = Promise.withResolvers<void>();
      stub.held = never.promise;
      await terminal.type("mais uma");
      await terminal.press("Enter");
      await terminal.shows("Good▌");
      await terminal.press("Escape");
      await terminal.shows("; x stops it");
      await terminal.type("x");
      await terminal.shows("(stopped)");
      // A failed reply leaves intent and slots as they were.
      expect(await terminal.screen()).toContain("✓ car.year: 2015");
      never.resolve();

      await stub[Symbol.asyncDispose]();
      await terminal.press("Enter");
      await terminal.shows("Enter sends");
      // A single failure may be chance; after several the gateway looks for the endpoint and finds none.
      for (let failures = 1; !/LLM (failing|away)/.test(await terminal.screen()); failures++) {
        expect(failures).toBeLessThan(20);
        await terminal.type(`alguém ${failures}?`);
        await terminal.press("Enter");
        await terminal.shows(new RegExp(`alguém ${failures}\\?(.*\\n)*.*did not reply|LLM (failing|away)`));
      }
      const away = await terminal.shows("LLM away");
      expect(away).toContain("▲ LLM away: no reply from");
      await terminal.shows("no model replies now");
      await terminal.type("ainda?");
      await terminal.press("Enter");
      await terminal.shows("› ainda?");
      await terminal.press("Escape");
      await terminal.shows("q Ctrl-C quit");
      expect(await terminal.screen()).toContain("› ainda?");
      await terminal.press("1");
      await terminal.shows("paused");
      await terminal.press("q");
      await terminal.shows("ended with 0");
      await expectRestored(terminal);
    },
  );

  inTerminal("a restart on the same database begins with the stored events", async () => {
    using folder = new TempFolder();
    {
      await using first = await Gateway.start(folder, {
        args: ["--db-path", folder.file("events.duckdb")],
      });
      await post(
        first.url,
        messages
          .slice(0, 50)
          .map(({ text }) => JSON.stringify({ message: text }))
          .join("\n"),
      );
      await first.stop();
    }
    await using terminal = await Tmux.open(folder, { args: ["--db-path", "events.duckdb"] });
    await terminal.shows(messages[49]?.text.slice(0, 20) ?? "");
    await terminal.press("2");
    await terminal.shows("% of the variance");
  });

  inTerminal("an event cannot write to the terminal", async () => {
    using folder = new TempFolder();
    await using terminal = await Tmux.open(folder);
    const url = await terminal.url();
    await terminal.shows("No events yet");
    const hostile = "\x1b]0;owned\x07\x1b[31mred\x1b[2J\x1b[8;1;1t\x9b31m \u202egnp.exe z\u200bw \x07";
    const name = "mark\x1b]2;owned\x1b\\\x1b[6n";
    const event = { type: name, message: hostile, conversation_id: name, intent: name, [name]: hostile };
    await post(url, JSON.stringify(event));
    await terminal.shows("␛]0;owned");
    for (const [key, shown] of [
      ["Enter", "event 1"],
      ["2", "newest 256"],
      ["3", "1 learned"],
      ["4", "No model to talk to"],
      ["5", "refused, by code"],
      ["l", "l closes"],
      ["1", "paused"],
    ] as const) {
      await terminal.press(key);
      await terminal.shows(shown);
    }
    const written = terminal.raw().toString("utf8");
    const obeyed = [
      "\x1b]0;owned",
      "\x1b]2;owned",
      "\x1b[8;1;1t",
      "\x1b[31mred",
      "\u202e",
      "\u200b",
      "\u009b",
    ];
    expect(obeyed.filter((sequence) => written.includes(sequence))).toEqual([]);
    expect(await terminal.says("pane_title")).not.toContain("owned");
  });

  inTerminal(
    "a warning appears in the log drawer, not over the screen, and is printed when the dashboard has closed",
    async () => {
      using folder = new TempFolder();
      await using terminal = await Tmux.open(folder);
      await terminal.shows("No events yet");
      const pid = await terminal.pid();
      await terminal.until("the ring is there", () => existsSync(folder.ring));
      rmSync(folder.ring);
      await terminal.shows(/▲ \d in the log/);
      await terminal.press("l");
      await terminal.shows("the file was removed or replaced");
      await terminal.press("l");
      process.kill(pid, "SIGTERM");
      await terminal.shows("ended with 0");
      expect(await terminal.screen()).toContain("the file was removed or replaced");
      await expectRestored(terminal);
    },
  );

  inTerminal(
    "Ctrl-Z gives the terminal back and fg takes it again, and so do SIGTSTP and SIGCONT from outside",
    async () => {
      using folder = new TempFolder();
      await using terminal = await Tmux.open(folder);
      await terminal.shows("No events yet");
      const pid = await terminal.pid();
      await terminal.press("C-z");
      await terminal.shows("Stopped");
      expect(await terminal.says("alternate_on")).toBe("0");
      await terminal.type("fg; echo ended with $?");
      await terminal.press("Enter");
      await terminal.shows("No events yet");
      process.kill(pid, "SIGTSTP");
      await terminal.shows("Stopped");
      await terminal.type("fg; echo ended with $?");
      await terminal.press("Enter");
      const url = `http://${/127\.0\.0\.1:\d+/.exec(await terminal.shows("No events yet"))?.[0]}`;
      await post(url, '{"message":"after the stop"}');
      await terminal.shows("after the stop");
      await terminal.press("q");
      await terminal.shows("ended with 0");
      await expectRestored(terminal);
    },
  );

  inTerminal("Ctrl-C drains and quits, even from an input", async () => {
    using folder = new TempFolder();
    await using terminal = await Tmux.open(folder);
    await terminal.shows("No events yet");
    await terminal.press("/");
    await terminal.type("q");
    await terminal.press("C-c");
    await terminal.shows("ended with 0");
    await expectRestored(terminal);
  });

  inTerminal("if the terminal hangs up, the gateway finishes what was received", async () => {
    using folder = new TempFolder();
    const terminal = await Tmux.open(folder, { args: ["--db-path", "events.duckdb"] });
    const url = await terminal.url();
    await post(url, '{"message":"the last one"}');
    // It waits until the gateway has gone.
    await terminal.hangUp();
    await using again = await Gateway.start(folder, { args: ["--db-path", folder.file("events.duckdb")] });
    const page = (await (await fetch(`${again.url}/api/events`)).json()) as {
      events: { message: string }[];
    };
    expect(page.events.map(({ message }) => message)).toEqual(["the last one"]);
  });

  const crashing = join(import.meta.dir, "../../.cache", "gateway-crash-under-the-dashboard");
  afterAll(() => rmSync(crashing, { force: true }));

  inTerminal("a crash gives the terminal back and prints the error", async () => {
    const mutation = "crash-under-the-dashboard";
    const command = [process.execPath, "scripts/build.ts", "--mutation", mutation, "--outfile", crashing];
    const built = Bun.spawnSync(command, { cwd: join(import.meta.dir, "../..") });
    expect({ code: built.exitCode, error: built.exitCode === 0 ? "" : built.stderr.toString() }).toEqual({
      code: 0,
      error: "",
    });
    using folder = new TempFolder();
    await using terminal = await Tmux.open(folder, { binary: crashing });
    const screen = await terminal.shows("ended with 1");
    expect(screen).toContain("a mutation of the tests");
    await expectRestored(terminal);
  });
});

describe("no dashboard", () => {
  inTerminal("a dumb terminal gets a headless gateway and a line that says so", async () => {
    using folder = new TempFolder();
    await using terminal = await Tmux.open(folder, {
      binary: `TERM=dumb ${process.env.GATEWAY_BINARY ?? join(import.meta.dir, "../../one_file_gateway")}`,
    });
    await terminal.shows("headless: TERM is dumb");
    await terminal.shows("listening on");
    expect(await terminal.says("alternate_on")).toBe("0");
    await terminal.press("C-c");
    await terminal.shows("ended with 0");
  });

  test("if standard output is not a terminal, a line says so and nothing is drawn", async () => {
    using folder = new TempFolder();
    await using gateway = await Gateway.start(folder);
    await gateway.stop();
    expect(gateway.log).toContain("headless: standard output is not a terminal");
    expect(gateway.out).toBe("");
  });
});
