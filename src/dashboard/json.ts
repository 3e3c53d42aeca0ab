/** Indents a JSON text, or finds one member of it, without parsing values: 64-bit numbers and 1e400 stay as they are. */

const INDENT = "  ";
const DEPTH_SHOWN_MAX = 64;
/** A string, a number or literal, or one of the six structural characters; white space between them is skipped. */
const TOKEN = /"(?:[^"\\]|\\.)*"?|[[\]{},:]|[^\s[\]{},:"]+/gy;
const SPACE = /\s*/y;

function* tokens(json: string): Generator<{ text: string; from: number; to: number }> {
  for (let at = 0; at < json.length; ) {
    SPACE.lastIndex = at;
    SPACE.test(json);
    at = SPACE.lastIndex;
    TOKEN.lastIndex = at;
    const match = TOKEN.exec(json);
    if (match === null) return;
    yield { text: match[0], from: at, to: TOKEN.lastIndex };
    at = TOKEN.lastIndex;
  }
}

/** A valid JSON text in indented lines, at most `linesMax`. */
export function prettyJson(json: string, linesMax: number): string[] {
  const lines: string[] = [];
  let line = "";
  let depth = 0;
  let before = "";
  const newLine = (): void => {
    if (line !== "") lines.push(line);
    line = INDENT.repeat(Math.min(depth, DEPTH_SHOWN_MAX));
  };
  for (const { text } of tokens(json)) {
    if (lines.length >= linesMax) break;
    const closes = text === "}" || text === "]";
    if (closes) {
      depth -= 1;
      if (before !== "{" && before !== "[") newLine();
    } else if (before === "{" || before === "[" || before === ",") newLine();
    line += text;
    if (text === ":") line += " ";
    if (text === "{" || text === "[") depth += 1;
    before = text;
  }
  if (lines.length < linesMax) lines.push(line);
  return lines;
}

/** The text of an object's member as it stands there; null if the object has no member of that name. */
export function memberText(json: string, name: string): string | null {
  const wanted = JSON.stringify(name);
  let depth = 0;
  let key = "";
  let before = "";
  let start: number | null = null;
  for (const { text, from, to } of tokens(json)) {
    if (start !== null && depth === 1 && (text === "," || text === "}"))
      return json.slice(start, from).trim();
    if (depth === 1 && start === null) {
      if (before === ":" && key === wanted) start = from;
      else if (text === ":") key = before;
    }
    if (text === "{" || text === "[") depth += 1;
    if (text === "}" || text === "]") depth -= 1;
    before = text;
    if (to === json.length) break;
  }
  return null;
}
