/**
 * The marks that models put around their thoughts. They are known by their shape, and by a few words in their names:
 *
 *     <think> </think>  < Think type="x" >  <seed:think>     tags
 *     [THINK] [/THINK]  ◁think▷ ◁/think▷                     tags in other brackets
 *     <|think|> <|/think|>  <|begin_of_thought|> <|end_of_thought|>  <|START_THINKING|>     tokens
 *     <|channel|>analysis<|message|> … <|end|> <|channel|>final<|message|>     channels (harmony)
 *     <|channel>thought … <channel|>
 *     assistantfinal                                          a channel whose marks were eaten
 *     Here is my thought process: … Here is my response:      Granite
 *
 * Pure. Reads one mark at a place in a text that may go on later.
 */

/** A longer mark is text. It is also the most that is held back because it may become a mark. */
const MARK_CHARS_MAX = 256;

/** A token or a tag in ◁▷ is never prose; a tag in <> or [] may be. */
type Shape = "tag" | "bracket" | "token";

export type Mark =
  /** sure: its name says that a thought begins or ends. If not, only its place and its partner tell. */
  | { readonly kind: "open" | "close"; readonly name: string; readonly shape: Shape; readonly sure: boolean }
  /** A channel of thoughts begins; the channel of the answer begins; a channel ends. */
  | { readonly kind: "channel" | "final" | "end" }
  /** A sentence that does the same: it is text if something was said before, or if no channel is open. */
  | { readonly kind: "channel sentence" | "end sentence" }
  /** Says nothing about thoughts and is never shown. */
  | { readonly kind: "noise" };

/** "more": the text must go on before it is clear. "text": no mark begins here. */
export type Lexed = { readonly mark: Mark; readonly end: number } | "text" | "more";

/** A mark with one of these in its name is about thoughts, wherever it stands. */
const THOUGHT =
  /think|thought|reasoning|reflect|ponder|scratchpad|deliberat|ruminat|contemplat|cogitat|monologue|introspect|^analysis$|^cot$/;
/** Names that wrap an answer and no thought. */
const ANSWER =
  /answer|respon[sd]|repl(?:y|ies)|final|output|result|solution|json|message|content|^tool|^function|^code$|^data$|^event$|^object$|^said$/;
const FINAL = /^(?:final|answer|response|output)$/;
/** HTML, SVG and MathML, as an assistant may write them, and BBCode. */
const MARKUP = new Set(
  `a abbr acronym address area article aside audio b base bdi bdo big blockquote body br button canvas caption center cite code col
  colgroup data datalist dd del details dfn dialog dir div dl dt em embed fieldset figcaption figure font footer form frame frameset
  h1 h2 h3 h4 h5 h6 head header hgroup hr html i iframe img input ins kbd label legend li link list main map mark marquee math menu
  meta meter nav noscript object ol optgroup option output p param path picture pre progress q quote rect rp rt ruby s samp script search
  section select size slot small source span spoiler strike strong style sub summary sup svg table tbody td template text textarea
  tfoot th thead time title tr track tt u ul url var video wbr xml circle color line email youtube g`.split(
    /\s+/,
  ),
);
const STARTS = /^(?:start|im_start|start_header_id|start_of_turn)$/;
const ENDS =
  /^(?:end|return|call|im_end|eot|eot_id|eom_id|end_of_turn|endoftext|end_of_text|end_of_sentence|eos)$/;
const NOISE =
  /^(?:message|constrain|end_header_id|begin_of_text|begin_of_sentence|bos|pad|assistant|user|system|startoftext)$/;
/** What stands between the mark that starts a turn and its text. */
const ROLE =
  /(think(?:ing)?|thoughts?|reasoning|analysis)\b|(?:assistant|model|user|system|developer|tool)(?!final|analysis|commentary)|/y;
const ROLE_CHARS_MAX = 24;
const CHANNEL_WORD = /\s{0,8}([a-z_]{0,32})/iy;
const CHANNEL_WORD_CHARS_MAX = 40;

const TAG = /<(\s*)(\/?)\s*([a-z][\w.:-]*)(\s[^<>]*?)?\s*\/?>/iy;
const TAG_BEGINS = /^<\s*\/?\s*(?:[a-z|｜][^<>]*)?$/i;
const CUT_TAG = /<\/([a-z]+)\s*$/iy;
const CUT_NAMES = ["think", "thinking", "thought", "reasoning", "reflection"];
const TOKEN =
  /<\s*(\/?)[|｜]\s*([^<>|｜\s]{1,64})\s*[|｜]>|<[|｜](channel|think|thought|thinking)>|<(\/?[a-z_]+)[|｜]>/iy;
const KIMI = /◁\s*(\/?)\s*([^◁▷\s]{1,64})\s*▷/y;
const BRACKET = /\[\s*(\/?)\s*([a-z][\w:-]{0,63})\s*\]/iy;
const BRACKET_BEGINS = /^\[\s*\/?\s*(?:[a-z][\w:-]{0,63}\s*)?\]?$/i;
const EATEN = /assistant(final|analysis|commentary)/y;
const EATEN_WORDS = ["assistantfinal", "assistantanalysis", "assistantcommentary"];
const SPOKEN = /Here(?: is|'s) my (thought process|response):/y;
const SPOKEN_WORDS = ["Here is my", "Here's my"].flatMap((begin) => [
  `${begin} thought process:`,
  `${begin} response:`,
]);
const SPOKEN_CHARS_MAX = Math.max(...SPOKEN_WORDS.map((words) => words.length));

/** Where a mark may begin. */
export const MARK_BEGINS = /[<[◁aH]/g;

/**
 * Reads the mark that begins at `at`.
 * @param o.before the character before it.
 * @param o.ended whether the text is complete.
 */
export function markAt(
  text: string,
  at: number,
  { before, ended }: { before: string; ended: boolean },
): Lexed {
  const lexed = read(text, at, ended);
  // `<think>` in back quotes is about the mark.
  if (typeof lexed === "string" || before !== "`") return lexed;
  if (lexed.end === text.length && !ended) return "more";
  return text[lexed.end] === "`" ? "text" : lexed;
}

function read(text: string, at: number, ended: boolean): Lexed {
  switch (text[at]) {
    case "<":
      return (
        tokenAt(text, at, ended) ??
        tagAt(text, at, ended) ??
        unfinished(text, at, { begins: TAG_BEGINS, ended })
      );
    case "◁":
      return kimiAt(text, at) ?? unfinished(text, at, { begins: /^◁[^◁▷\n]*$/, ended });
    case "[":
      return bracketAt(text, at, ended);
    case "a":
      return eatenAt(text, at, ended);
    case "H":
      return spokenAt(text, at, ended);
    default:
      return "text";
  }
}

function unfinished(text: string, at: number, o: { begins: RegExp; ended: boolean }): "text" | "more" {
  const rest = text.length - at;
  return !o.ended && rest < MARK_CHARS_MAX && o.begins.test(text.slice(at)) ? "more" : "text";
}

function matchAt(pattern: RegExp, text: string, at: number): RegExpExecArray | null {
  pattern.lastIndex = at;
  const match = pattern.exec(text);
  return match !== null && match[0].length <= MARK_CHARS_MAX ? match : null;
}

function tagAt(text: string, at: number, ended: boolean): Lexed | null {
  const match = matchAt(TAG, text, at);
  if (match === null) return ended ? cutTagAt(text, at) : null;
  const [whole, space = "", slash = "", name = "", attributes = ""] = match;
  const end = at + whole.length;
  // "a < b and c > d" is no tag.
  if (space !== "" && attributes.trim() !== "") return "text";
  const own = plainName(name);
  const details = own === "details" && (slash !== "" || THOUGHT.test(attributes.toLowerCase()));
  const sure = THOUGHT.test(own) || (details && slash === "");
  if (!sure && !details && (space !== "" || MARKUP.has(own) || ANSWER.test(own))) return "text";
  if (whole.endsWith("/>")) return sure ? { mark: { kind: "noise" }, end } : "text";
  const kind = slash === "" ? "open" : "close";
  return { mark: { kind, name: own, shape: "tag", sure }, end };
}

/** A closing tag that is cut at the end of the text. */
function cutTagAt(text: string, at: number): Lexed | null {
  const match = matchAt(CUT_TAG, text, at);
  const begun = match?.[1]?.toLowerCase() ?? "";
  const name = begun === "" ? undefined : CUT_NAMES.find((known) => known.startsWith(begun));
  if (name === undefined) return null;
  return { mark: { kind: "close", name: plainName(name), shape: "tag", sure: true }, end: text.length };
}

function kimiAt(text: string, at: number): Lexed | null {
  const match = matchAt(KIMI, text, at);
  if (match === null) return null;
  const mark = tokenMark(plainName(match[2] ?? ""), match[1] !== "");
  return { mark, end: at + match[0].length };
}

function bracketAt(text: string, at: number, ended: boolean): Lexed {
  const match = matchAt(BRACKET, text, at);
  if (match === null) return unfinished(text, at, { begins: BRACKET_BEGINS, ended });
  const [whole, slash = "", name = ""] = match;
  const end = at + whole.length;
  if (end === text.length && !ended) return "more";
  const own = plainName(name);
  const capitals = name === name.toUpperCase() && name.length > 2;
  const sure = THOUGHT.test(own) && (capitals || /^(?:think|thinking|thought)$/.test(own));
  // [text](address), [text][reference] and [name]: value are Markdown, and [b] is BBCode.
  const markdown = capitals ? "(:" : "([:";
  if (markdown.includes(text[end] ?? " ") || (!sure && (!capitals || MARKUP.has(own)))) return "text";
  if (!sure && ANSWER.test(own)) return { mark: { kind: "noise" }, end };
  return { mark: { kind: slash === "" ? "open" : "close", name: own, shape: "bracket", sure }, end };
}

function eatenAt(text: string, at: number, ended: boolean): Lexed {
  const match = matchAt(EATEN, text, at);
  if (match !== null) {
    return { mark: { kind: match[1] === "final" ? "final" : "channel" }, end: at + match[0].length };
  }
  const rest = text.slice(at, at + 20);
  return !ended && EATEN_WORDS.some((word) => word.startsWith(rest)) ? "more" : "text";
}

function spokenAt(text: string, at: number, ended: boolean): Lexed {
  const match = matchAt(SPOKEN, text, at);
  if (match !== null) {
    const kind = match[1] === "response" ? "end sentence" : "channel sentence";
    return { mark: { kind }, end: at + match[0].length };
  }
  const rest = text.slice(at, at + SPOKEN_CHARS_MAX);
  return !ended && SPOKEN_WORDS.some((words) => words.startsWith(rest)) ? "more" : "text";
}

function tokenAt(text: string, at: number, ended: boolean): Lexed | null {
  const match = matchAt(TOKEN, text, at);
  if (match === null) return null;
  const [whole, slash = "", name, half, closing] = match;
  const end = at + whole.length;
  const closes = slash !== "" || closing !== undefined || name?.startsWith("/") === true;
  const own = (name ?? half ?? closing ?? "").toLowerCase().replace(/^\//, "").replaceAll("▁", "_");
  if (own === "channel") {
    if (!closes) return channelAt(text, end, ended);
    return { mark: { kind: "close", name: own, shape: "token", sure: true }, end };
  }
  if (STARTS.test(own) || own === "constrain")
    return wordAfter(text, end, { start: own !== "constrain", ended });
  if (ENDS.test(own)) return { mark: { kind: "end" }, end };
  if (NOISE.test(own)) return { mark: { kind: "noise" }, end };
  return { mark: tokenMark(own, closes), end };
}

/** Reads the name of a channel behind its mark. */
function channelAt(text: string, from: number, ended: boolean): Lexed {
  const match = matchAt(CHANNEL_WORD, text, from);
  const end = from + (match?.[0].length ?? 0);
  if (end === text.length && !ended && end - from < CHANNEL_WORD_CHARS_MAX) return "more";
  return { mark: { kind: FINAL.test((match?.[1] ?? "").toLowerCase()) ? "final" : "channel" }, end };
}

/** Reads the role of a turn, or the format of an answer, behind its mark. */
function wordAfter(text: string, from: number, o: { start: boolean; ended: boolean }): Lexed {
  if (text.length - from < (o.start ? ROLE_CHARS_MAX : CHANNEL_WORD_CHARS_MAX) && !o.ended) return "more";
  const match = matchAt(o.start ? ROLE : CHANNEL_WORD, text, from);
  const thinks = o.start && match?.[1] !== undefined;
  return { mark: { kind: thinks ? "channel" : "noise" }, end: from + (match?.[0].length ?? 0) };
}

/** <|begin_of_thought|>, <|thought_start|>, <|/thought|>, <|end_of_thought|> and the like. */
function tokenMark(name: string, slashed: boolean): Mark {
  const begin = /^(?:begin|start)_(?:of_)?(.+)$/.exec(name) ?? /^(.+)_(?:begin|start)$/.exec(name);
  const close = /^end_(?:of_)?(.+)$/.exec(name) ?? /^(.+)_end$/.exec(name) ?? /^\/(.+)$/.exec(name);
  const own = plainName(begin?.[1] ?? close?.[1] ?? name);
  if (THOUGHT.test(own) || !ANSWER.test(own)) {
    const kind = slashed || (close !== null && begin === null) ? "close" : "open";
    return { kind, name: own, shape: "token", sure: THOUGHT.test(own) };
  }
  return { kind: "noise" };
}

/** Without its namespace; all forms of "think" are one name. */
function plainName(name: string): string {
  const own = name.toLowerCase().split(":").at(-1) ?? "";
  return /^(?:think|thinking|thoughts?)$/.test(own) ? "think" : own;
}
