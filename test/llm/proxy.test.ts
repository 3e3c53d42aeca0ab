import { expect, test } from "bun:test";
import { isExempt, isLoopbackHost, proxyOf } from "../../src/llm/proxy.ts";

const PROXY = "http://proxy.office:3128";

test.each([
  ["http://model.office/v1", { http_proxy: PROXY }, PROXY],
  ["http://model.office/v1", { HTTP_PROXY: PROXY }, PROXY],
  ["http://model.office/v1", { HTTPS_PROXY: PROXY }, null],
  ["https://model.office/v1", { HTTPS_PROXY: PROXY, HTTP_PROXY: "http://other" }, PROXY],
  ["https://model.office/v1", { all_proxy: PROXY }, PROXY],
  ["https://model.office/v1", { ALL_PROXY: PROXY, https_proxy: "http://s:1" }, "http://s:1"],
  ["http://model.office/v1", { http_proxy: "", HTTP_PROXY: PROXY }, null],
  ["http://model.office/v1", { http_proxy: "proxy.office:3128" }, PROXY],
  ["http://model.office/v1", { http_proxy: PROXY, NO_PROXY: ".office" }, null],
  ["http://model.office/v1", {}, null],
] as const)("%s with %j goes to %p", (url, env, proxy) => {
  expect(proxyOf(new URL(url), env)).toBe(proxy);
});

test.each([
  ["http://model.office/v1", "office", true],
  ["http://model.office/v1", ".office", true],
  ["http://model.office/v1", "*.office", true],
  ["http://model.office/v1", "other, MODEL.office", true],
  ["http://model.office/v1", "other model.office", true],
  ["http://model.office./v1", "model.office.", true],
  ["http://mymodel.office/v1", "model.office", false],
  ["http://office/v1", ".office", true],
  ["http://model.office/v1", "*", true],
  ["http://model.office/v1", "", false],
  ["http://model.office/v1", ",, ,", false],
  ["http://model.office:8080/v1", "model.office:8080", true],
  ["http://model.office:8080/v1", "model.office:80", false],
  ["http://model.office/v1", "model.office:80", true],
  ["https://model.office/v1", "model.office:443", true],
  ["http://10.1.2.3/v1", "10.0.0.0/8", true],
  ["http://11.1.2.3/v1", "10.0.0.0/8", false],
  ["http://10.1.2.3:81/v1", "10.1.2.3", true],
  ["http://110.1.2.3/v1", "10.1.2.3", false],
  ["http://[fd00::7]/v1", "fd00::/8", true],
  ["http://[fd00::7]:99/v1", "[fd00::7]:99", true],
  ["http://[fd00::7]/v1", "fd00:0::7", true],
  ["http://ten.office/v1", "10.0.0.0/8", false],
  ["http://10.1.2.3/v1", "10.0.0.0/99", false],
] as const)("%s with no_proxy %p is exempt: %p", (url, noProxy, exempt) => {
  expect(isExempt(new URL(url), noProxy)).toBe(exempt);
});

test.each([
  ...[
    "localhost",
    "api.localhost",
    "127.0.0.1",
    "127.8.9.1",
    "0.0.0.0",
    "::1",
    "::",
    "::ffff:127.0.0.1",
    "::ffff:7f00:1",
  ],
])("%s is this machine", (host) => {
  expect(isLoopbackHost(host)).toBe(true);
});

test.each(["localhost.office", "128.0.0.1", "::2", "mylocalhost", "::ffff:10.0.0.1"])("%s is not", (host) => {
  expect(isLoopbackHost(host)).toBe(false);
});
