/** Takes secrets off the command line, which every user of the machine can read, and which a crash report repeats. */
import { urlSecrets } from "../secrets.ts";
import { OPTIONS, TABLE } from "./options.ts";

const { token, llmApiKey, llmBaseUrl } = TABLE;

/** By flag: whether a value is secret. */
const SECRET = new Map<string, (value: string) => boolean>([
  [token.flag, () => true],
  [llmApiKey.flag, () => true],
  [llmBaseUrl.flag, (value) => urlSecrets(value).length > 0],
]);

interface MovedSecrets {
  readonly args: readonly string[];
  readonly env: Readonly<Record<string, string>>;
}

/** The same arguments with each secret moved into its environment variable; null if there is none. Call it after the arguments were parsed. */
export function moveSecrets(args: readonly string[]): MovedSecrets | null {
  const kept: string[] = [];
  const env: Record<string, string> = {};
  for (let index = 0; index < args.length; index++) {
    const arg = args[index] ?? "";
    const equals = arg.indexOf("=");
    const flag = equals < 0 ? arg : arg.slice(0, equals);
    const option = OPTIONS.find((known) => known.flag === flag);
    const takesNext = equals < 0 && option !== undefined && option.metavar !== null;
    const value = takesNext ? (args[index + 1] ?? "") : arg.slice(equals + 1);
    if (takesNext) index += 1;
    // Of a repeated flag the last value counts, so each later value replaces the earlier.
    if (option?.env != null && SECRET.get(flag)?.(value) === true) env[option.env] = value;
    else kept.push(arg, ...(takesNext ? [value] : []));
  }
  return Object.keys(env).length === 0 ? null : { args: kept, env };
}
