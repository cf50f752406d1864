// An identity provider for tests: npm's `oidc-provider` over HTTPS, on a free port, which is printed as its URL.
// Arguments: the folder of npm's modules, a PEM file with the key and the certificate, and the addresses to which people
// may be sent back. People sign in by its own forms, under any name and with any password.
// A POST to /rotate replaces its signing keys.
import { generateKeyPairSync, randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { createServer } from "node:https";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [modules, certificate, ...redirectUris] = process.argv.slice(2);
const { Provider } = await import(pathToFileURL(join(modules, "oidc-provider", "lib", "index.js")));
const scopes = ["tokens:read", "tokens:write"];
const machine = {
  client_id: "nightly",
  client_secret: "nightly-secret",
  grant_types: ["client_credentials"],
  redirect_uris: [],
  response_types: [],
  token_endpoint_auth_method: "client_secret_post",
};

const pages = {
  client_id: "pages",
  client_secret: "Zq8KxW2vXt7rLn4M",
  grant_types: ["authorization_code"],
  redirect_uris: redirectUris,
  response_types: ["code"],
  token_endpoint_auth_method: "client_secret_basic",
};
const chat = { ...pages, client_id: "chat", client_secret: undefined, token_endpoint_auth_method: "none" };

function createKey() {
  const { privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
  return { ...privateKey.export({ format: "jwk" }), use: "sig", alg: "RS256", kid: randomUUID() };
}

function createProvider(issuer) {
  return new Provider(issuer, {
    clients: redirectUris.length ? [machine, pages, chat] : [machine],
    jwks: { keys: [createKey()] },
    scopes: ["openid", ...scopes],
    extraTokenClaims: () => ({ groups: ["storage"] }),
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: true },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: (_context, audience) => ({
          accessTokenFormat: "jwt",
          accessTokenTTL: 600,
          audience,
          scope: scopes.join(" "),
        }),
      },
    },
  }).callback();
}

const pem = readFileSync(certificate);
let answer;
const server = createServer({ key: pem, cert: pem }, (request, response) => {
  if (request.url !== "/rotate") return answer(request, response);
  answer = createProvider(`https://127.0.0.1:${server.address().port}`);
  return response.end();
});
server.listen(0, "127.0.0.1", () => {
  const url = `https://127.0.0.1:${server.address().port}`;
  answer = createProvider(url);
  console.log(url);
});
