/** Decides by which proxy a request goes. Bun's own rule sends even http://127.0.0.1 through `HTTP_PROXY`. */
import { BlockList, isIP } from "node:net";

/** The variables of the environment. */
export type ProxyEnv = Readonly<Record<string, string | undefined>>;

const ADDRESSES_HERE = new BlockList();
ADDRESSES_HERE.addSubnet("127.0.0.0", 8, "ipv4");
ADDRESSES_HERE.addAddress("0.0.0.0", "ipv4");
ADDRESSES_HERE.addAddress("::1", "ipv6");
ADDRESSES_HERE.addAddress("::", "ipv6");

/**
 * The proxy that the environment names for a URL: of `http_proxy`, `https_proxy` and `all_proxy`, in lower or upper case,
 * unless `no_proxy` exempts the host. @returns null: none.
 */
export function proxyOf(url: URL, env: ProxyEnv): string | null {
  const name = url.protocol === "https:" ? "https_proxy" : "http_proxy";
  const proxy = variable(env, name) || variable(env, "all_proxy");
  if (proxy === "" || isExempt(url, variable(env, "no_proxy"))) return null;
  return proxy.includes("://") ? proxy : `http://${proxy}`;
}

function variable(env: ProxyEnv, name: string): string {
  return (env[name] ?? env[name.toUpperCase()] ?? "").trim();
}

/** The host of a URL as it is compared: in lower case, without brackets and the dot at its end. */
export function hostOf({ hostname }: URL): string {
  return hostname
    .toLowerCase()
    .replace(/^\[|\]$/g, "")
    .replace(/\.$/, "");
}

/** Whether a host's name or address means this machine by itself, without a look into DNS. */
export function isLoopbackHost(host: string): boolean {
  if (host === "localhost" || host.endsWith(".localhost")) return true;
  const version = isIP(host);
  return version !== 0 && ADDRESSES_HERE.check(host, version === 4 ? "ipv4" : "ipv6");
}

/**
 * Reads `no_proxy` as curl does: entries separated by commas or blanks, each a name that also stands for those below it, an
 * address, a range of addresses (10.0.0.0/8), or `*`; each with or without a port.
 */
export function isExempt(url: URL, noProxy: string): boolean {
  const host = hostOf(url);
  const port = url.port === "" ? (url.protocol === "https:" ? "443" : "80") : url.port;
  return noProxy
    .toLowerCase()
    .split(/[\s,]+/)
    .some((entry) => entry !== "" && isExemptBy(entry, host, port));
}

function isExemptBy(entry: string, host: string, port: string): boolean {
  if (entry === "*") return true;
  const range = /^\[?([0-9a-f.:]+)\]?\/(\d{1,3})$/.exec(entry);
  if (range !== null) return isInRange(host, range[1] ?? "", Number(range[2]));
  const [, bracketed, plain = "", entryPort] = /^(?:\[(.+)\]|(.*?))(?::(\d+))?$/.exec(entry) ?? [];
  // An address of IPv6 without brackets has colons of its own.
  const address = isIP(entry) === 6 ? entry : (bracketed ?? plain);
  if (isIP(entry) !== 6 && entryPort !== undefined && entryPort !== port) return false;
  const version = isIP(address);
  if (version !== 0) return isInRange(host, address, version === 4 ? 32 : 128);
  const name = address.replace(/^\*?\.+/, "").replace(/\.$/, "");
  return name !== "" && (host === name || host.endsWith(`.${name}`));
}

function isInRange(host: string, address: string, bits: number): boolean {
  const version = isIP(address);
  if (version === 0 || isIP(host) !== version || bits > (version === 4 ? 32 : 128)) return false;
  const range = new BlockList();
  range.addSubnet(address, bits, version === 4 ? "ipv4" : "ipv6");
  return range.check(host, version === 4 ? "ipv4" : "ipv6");
}
