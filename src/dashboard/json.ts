/** JSON as text: made pretty, or one member of it, without reading its values, so that 64-bit numbers and 1e400 stay what they are. */

const INDENT = "  ";
const DEPTH_SHOWN_MAX = 64;
/** A string, a number or word, or one of the six marks; white space between them is passed over. */
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

/** A valid JSON text in indented lines, at most so many. */
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

/** The text of a member of a JSON object, as it stands there; null where there is none of that name. */
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
