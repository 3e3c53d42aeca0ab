/** Thoughts are told from answers, in whatever marks a model puts around them and wherever a text is cut into pieces. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import fc from "fast-check";
import * as v from "valibot";
import { JsonRun } from "../../src/llm/json-run.ts";
import { completionOf, lastValid } from "../../src/llm/reply.ts";
import { Thoughts } from "../../src/llm/thoughts.ts";

// Generous, because the machine may be busy.
setDefaultTimeout(60_000);
const seed = Number(process.env.FC_SEED ?? Date.now() % 2 ** 31);
console.log(`thoughts.test.ts: FC_SEED=${seed}`);
fc.configureGlobal({ seed, numRuns: Number(process.env.FC_RUNS ?? 2000) });

/** The text that is shown of pieces. */
function shownOf(pieces: readonly string[], mode: "hold" | "pass" = "hold", cut = false): string {
  const thoughts = new Thoughts({ mode });
  return pieces.map((piece) => thoughts.push(piece)).join("") + thoughts.end({ cut });
}

const IntentSchema = v.object({ intent: v.string() });
function intentOf(content: string): string | null {
  const completion = completionOf({ choices: [{ message: { content } }] });
  const found = lastValid(completion?.texts ?? [], IntentSchema);
  return found.ok ? found.value.intent : null;
}

const DRAFT = '{"intent":"Draft","sentiment":-1}';
const FINAL = '{"intent":"Final","sentiment":0.5}';
const THOUGHT = `SECRET: the writer may want ${DRAFT} but no.`;
const HARMONY_FINAL = "<|start|>assistant<|channel|>final<|message|>";

/** What stands before and after a thought, each form of it as seen in replies of models. */
const KNOWN = [
  ["<think>", "</think>"],
  ["<think>\n", "\n</think>\n\n"],
  ["< Think >", "</ THINK >"],
  ['<thinking type="x">', "</thinking>"],
  ["<thought>", "</thought>"],
  ["<reasoning>", "</reasoning>"],
  ["<reflection>", "</reflection>"],
  ["<seed:think>", "</seed:think>"],
  ["<thinking>", "</thinking>"],
  ["[THINK]", "[/THINK]"],
  ["[REFLECT]", "[/REFLECT]"],
  ["◁think▷", "◁/think▷"],
  ["<|think|>", "<|/think|>"],
  ["<｜think｜>", "<｜/think｜>"],
  ["<|begin_of_thought|>", "<|end_of_thought|>"],
  ["<|START_THINKING|>", "<|END_THINKING|>"],
  ["<|channel>thought\n", "<channel|>"],
  ["<|channel|>analysis<|message|>", `<|end|>${HARMONY_FINAL}`],
  ["<|start|>assistant<|channel|>analysis<|message|>", `<|end|>${HARMONY_FINAL}`],
  ["<|im_start|>think\n", "<|im_end|>\n<|im_start|>assistant\n"],
  ["Here is my thought process: ", "Here is my response: "],
  ['<details type="reasoning" done="true"><summary>A while</summary>', "</details>"],
] as const;
/** Nobody has seen these: they are known by their shape, at the start of a reply. */
const UNKNOWN = [
  ["<wuzzle>", "</wuzzle>"],
  ['<inner_voice mood="calm">', "</inner_voice>"],
  ["[MULLING]", "[/MULLING]"],
  ["<|mind|>", "<|/mind|>"],
  ["<|begin_of_mind|>", "<|end_of_mind|>"],
  ["◁mull▷", "◁/mull▷"],
] as const;
const EATEN = [["analysis", "assistantfinal"]] as const;

describe("a thought", () => {
  test.each([...KNOWN, ...UNKNOWN, ...EATEN].map(([open, close]) => ({ open, close })))(
    "between $open and $close is neither shown nor searched",
    ({ open, close }) => {
      const text = `${open}${THOUGHT}${close}`;
      expect(shownOf([`${text}Bom dia!`]).trim()).toBe("Bom dia!");
      expect(shownOf([...`${text}Bom dia!`], "pass").trim()).toBe("Bom dia!");
      expect(intentOf(text + FINAL)).toBe("Final");
      expect(intentOf(text)).toBeNull();
      expect(intentOf(`${text}I cannot say.`)).toBeNull();
      // Without its end it lasts to the end.
      expect(shownOf([`${open}${THOUGHT}`], "hold", true).trim()).toBe("");
      expect(intentOf(`${open}${THOUGHT}`)).toBeNull();
    },
  );

  test.each([...KNOWN, ...UNKNOWN, ...EATEN].map(([, close]) => ({ close })))(
    "without its beginning ends at $close",
    ({ close }) => {
      if (/details|im_end|Here/.test(close)) return;
      expect(shownOf([`${THOUGHT}${close}Bom dia!`]).trim()).toBe("Bom dia!");
      expect(intentOf(THOUGHT + close + FINAL)).toBe("Final");
    },
  );

  test("may hold marks, be nested, and have doubled marks", () => {
    for (const text of [
      "<think>a<think>SECRET</think>SECRET</think>Hi",
      "<think><think>SECRET</think>Hi",
      "<think>SECRET</think>\n</think>Hi",
      "<think>SECRET<reasoning>SECRET</think>Hi",
      "<think>I write <b>, [x](y), <|end|> and {'SECRET'</think>Hi",
      `<think>${DRAFT.replace("-1", '"</think>"')} SECRET</think>Hi`,
      "SECRET</think>SECRET</think>Hi",
      "<ponder>SECRET</ponder><think>SECRET</think><ponder>SECRET</ponder>Hi",
      "<ponder>SECRET<think>SECRET</think>SECRET</ponder>Hi",
      `<|channel|>analysis<|message|>SECRET<|end|><|start|>assistant<|channel|>commentary to=functions.x <|constrain|>json<|message|>SECRET<|call|>${HARMONY_FINAL}Hi<|return|>`,
      "analysisSECRETassistantcommentary to=x SECRETassistantfinalHi",
      "SECRET<|end|><|start|>assistantfinal<|message|>Hi",
      "<|channel|>final <|constrain|>text<|message|>Hi<|return|>",
      "Hi<think>SECRET<think>SECRET</think></think>",
      "Hi<|mind|>SECRET<|/mind|>",
    ])
      expect(`${text} → ${shownOf([text]).trim()}`).toBe(`${text} → Hi`);
  });

  test("that stands in an answer leaves the rest of it", () => {
    expect(shownOf(["<think>a<b</think>Hi <b>there</b> < 3 <think>x<think>y</think></think>!"])).toBe(
      "Hi <b>there</b> < 3 !",
    );
    expect(intentOf('{"intent":<think>hm</think>"Final"}')).toBe("Final");
  });
});

describe("no thought is seen in", () => {
  test.each([
    "Use `<think>` or `</think>` for that.",
    "<b>Oi</b>, <table><tr><td>1</td></tr></table>",
    "[link](http://a.b/c) [1] [x]: y [ok] and [NOTE] this",
    "[NOTE] this is long, and it never ends",
    "[b]bold[/b] [IMG]x[/IMG]",
    "```html\n<note>text</note>\n```",
    "Write <nome>, not <sobrenome>, if 1 < 2 and 3 > 2 or a < b and c > d <3",
    "<answer>Olá</answer>",
    "analysis of the data is what you want",
    "He said: Here is my response: no. Here is my thought process: I have none",
    "<!-- a comment --> Olá <br/>",
    '{"message":"use <think> tags</think>","n":["[THINK]","assistantfinal"]}',
    "{nome} e [sobrenome}: {1, 2",
    "…",
  ])("%s", (text) => {
    expect(shownOf([text])).toBe(text);
    expect(shownOf([...text])).toBe(text);
    expect(shownOf([...text], "pass")).toBe(text);
  });

  test("tokens that say nothing are not shown", () => {
    expect(shownOf(["<|im_start|>assistant\nOlá <|unknown|>você<|im_end|><|endoftext|>"]).trim()).toBe(
      "Olá você",
    );
  });
});

/** Text of a thought: drafts, broken JSON, prose with brackets, and words that only look like marks. */
const thoughtText = fc
  .array(
    fc.constantFrom(
      ...[
        "SECRET ",
        DRAFT,
        DRAFT.slice(0, 17),
        "{",
        "}",
        '"',
        "[1] ",
        "<b>x</b> ",
        "a < b ",
        "\n",
        "`",
        "assistant ",
      ],
      ...['{"message":"use <br> and </p>"}', "```json\n", "```", "[ok](x)", "<|", "</", "analys"],
    ),
    { minLength: 1, maxLength: 6 },
  )
  .map((parts) => `SECRET${parts.join("")}.`);
const answerText = fc.constantFrom(
  "Bom dia!",
  "Use `<think>`: 1 < 2 <b>ok</b> [a](b) {x}",
  'Veja {"message":"use <think> tags"} e pronto',
  "```json\n{}\n``` fim",
  "a",
);
const known = fc.constantFrom(...KNOWN);
const unknown = fc.constantFrom(...UNKNOWN);
/** Thoughts behind an answer. What ends a channel begins an answer, so channels are left out. */
const late = fc.constantFrom(...[...KNOWN, ...UNKNOWN].filter(([, end]) => !/final|im_start|Here/.test(end)));

/** Closed thoughts with a nested one, with marks that are doubled, and the first one maybe without its beginning. */
const thoughts = fc
  .tuple(
    fc.array(
      fc.record({
        marks: fc.oneof(known, unknown),
        text: thoughtText,
        inner: fc.option(fc.record({ marks: fc.constantFrom(...KNOWN.slice(0, 8)), text: thoughtText }), {
          freq: 3,
        }),
        doubled: fc.constantFrom("no", "no", "begin", "end"),
      }),
      { minLength: 1, maxLength: 3 },
    ),
    fc.boolean(),
  )
  .map(([blocks, orphan]) => {
    const texts = blocks.map(({ marks: [open, close], text, inner, doubled }, index) => {
      // A channel has no thought within, and what ends it does not end a tag.
      const channel = /channel|im_start|Here/.test(open);
      const inside = inner === null || channel ? "" : `${inner.marks[0]}${inner.text}${inner.marks[1]}`;
      const begin =
        orphan && index === 0
          ? ""
          : open + (doubled === "begin" && !channel && !open.startsWith("<details") ? open : "");
      return `${begin}${text}${inside}${text}${close}${doubled === "end" && !channel ? close : ""}`;
    });
    const [first] = blocks;
    const first0 = orphan && (/details|im_end|Here/.test(first?.marks[1] ?? "") || first?.inner !== null);
    return { text: texts.join(""), firstEnd: orphan ? (texts[0]?.length ?? 0) : 0, usable: !first0 };
  })
  .filter(({ usable }) => usable);

function cutAt(text: string, cuts: readonly number[]): string[] {
  const edges = [0, ...cuts.map((cut) => cut % (text.length + 1)).sort((a, b) => a - b), text.length];
  return edges.slice(1).map((edge, index) => text.slice(edges[index], edge));
}
const cuts = fc.array(fc.nat(5000), { maxLength: 30 });

describe("made-up replies", () => {
  test("show their answer and no thought, and the last object behind the thoughts is the answer", () => {
    fc.assert(
      fc.property(thoughts, answerText, cuts, late, unknown, ({ text }, answer, at, late, wrap) => {
        expect(shownOf(cutAt(text + answer, at)).trim()).toBe(answer);
        expect(intentOf(`${text}${answer} ${FINAL}`)).toBe("Final");
        expect(intentOf(`${text}${DRAFT} no: ${FINAL}`)).toBe("Final");
        expect(intentOf(`${text}I cannot say.`)).toBeNull();
        // Behind the answer, too, thoughts are not searched.
        expect(intentOf(`${FINAL} ${late[0]}${THOUGHT}${late[1]}`)).toBe("Final");
        expect(intentOf(`The answer: ${wrap[0]}${FINAL}${wrap[1]}`)).toBe("Final");
        expect(intentOf(`The answer for ${wrap[0]} is ${FINAL}`)).toBe("Final");
      }),
    );
  });

  test("that are cut off anywhere show no thought, and give the answer or none", () => {
    fc.assert(
      fc.property(thoughts, fc.nat(5000), ({ text, firstEnd }, cut) => {
        const whole = `${text}Bom dia! ${FINAL}`;
        // Nothing tells a thought whose beginning was never sent and whose end is cut off.
        const end = firstEnd + (cut % (whole.length + 1 - firstEnd));
        expect(shownOf([whole.slice(0, end)], "hold", true)).not.toContain("SECRET");
        expect(intentOf(whole.slice(0, end))).not.toBe("Draft");
      }),
    );
  });

  test("are the same wherever they are cut into pieces, whatever they hold", () => {
    const soup = fc
      .array(
        fc.oneof(
          fc.constantFrom(...[...KNOWN, ...UNKNOWN, ...EATEN].flat()),
          fc.constantFrom(
            DRAFT,
            "{",
            '{"a":"',
            '["',
            "<",
            "[",
            "◁",
            "<|",
            "`",
            "assistant",
            "</thi",
            " ",
            "\n",
            "final",
            "x",
          ),
          fc.string({ maxLength: 8 }),
        ),
        { maxLength: 14 },
      )
      .map((parts) => parts.join(""));
    fc.assert(
      fc.property(soup, cuts, fc.constantFrom("hold" as const, "pass" as const), (text, at, mode) => {
        const whole = shownOf([text], mode);
        expect(shownOf(cutAt(text, at), mode)).toBe(whole);
        expect(shownOf([...text], mode)).toBe(whole);
      }),
    );
  });

  test("of any length are held in bounded memory and read in linear time", () => {
    const texts = [
      "<think>".repeat(50_000),
      "{".repeat(300_000),
      '["['.repeat(100_000),
      "a<".repeat(150_000),
    ];
    for (const text of [
      ...texts,
      "[[".repeat(150_000),
      `[${"1,".repeat(150_000)}`,
      "`<think>".repeat(40_000),
    ]) {
      const thoughts = new Thoughts({ mode: "hold" });
      for (let at = 0; at < text.length; at += 1000) thoughts.push(text.slice(at, at + 1000));
      expect(thoughts.end({ cut: false }).length).toBeLessThanOrEqual(128 * 1024);
      expect(thoughts.doubtful.length).toBeLessThanOrEqual(256 * 1024);
    }
  });
});

test("a JSON value is found as JSON.parse finds it, wherever it is cut", () => {
  const spoiled = fc
    .tuple(fc.json(), fc.nat(), fc.constantFrom("", ",", "}", '"', "x", "1", "\n"))
    .map(([json, at, by]) => {
      const place = at % (json.length + 1);
      return by === "" ? json : json.slice(0, place) + by + json.slice(place);
    });
  fc.assert(
    fc.property(fc.oneof(fc.json(), spoiled), fc.nat(), (json, cut) => {
      if (!/^[{[]/.test(json)) return;
      const run = new JsonRun();
      const at = cut % (json.length + 1);
      const first = run.run(json.slice(0, at));
      const found = first === "more" ? run.run(json) : first;
      const parses = (text: string): boolean => {
        try {
          return typeof JSON.parse(text) === "object";
        } catch {
          return false;
        }
      };
      if (found === "done") expect(parses(json.slice(0, run.read))).toBe(true);
      else expect(parses(json)).toBe(false);
    }),
  );
});
