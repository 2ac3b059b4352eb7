// A node's services, made from the .proto files alone: nothing of this is generated, and nothing knows Python.
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const PROTOS = fileURLToPath(new URL("../../../protos", import.meta.url));
const CALL_MS = 10_000;
const STREAM_MS = 60_000;

export const code = grpc.status;
/** The name of a status: `OUT_OF_RANGE`. */
export const codeName = (error) => grpc.status[error.code] ?? "UNKNOWN";

/** A client of the orchestrator at `address` (host:port, or unix:/path); each call has a deadline. */
export class Orchestrator {
  constructor(address, tokenFile) {
    const definition = loader.loadSync("beemesh/orchestrator/v1/orchestrator_service.proto", {
      includeDirs: [PROTOS],
      keepCase: true,
      enums: String,
      longs: String,
      defaults: true,
    });
    const { OrchestratorService } = grpc.loadPackageDefinition(definition).beemesh.orchestrator.v1;
    this.stub = new OrchestratorService(address, grpc.credentials.createInsecure(), {
      "grpc.initial_reconnect_backoff_ms": 100,
      "grpc.max_reconnect_backoff_ms": 1_000,
    });
    this.tokenFile = tokenFile;
  }

  /** One answer; throws an error with `code`. */
  ask(method, request) {
    return new Promise((resolve, reject) =>
      this.stub[method](request, this.#metadata(), deadline(CALL_MS), (error, answer) =>
        error ? reject(error) : resolve(answer),
      ),
    );
  }

  /** The messages of a stream, for `for await`; throws an error with `code`. */
  stream(method, request) {
    return this.stub[method](request, this.#metadata(), deadline(STREAM_MS));
  }

  #metadata() {
    const metadata = new grpc.Metadata();
    if (this.tokenFile) metadata.set("authorization", `Bearer ${readFileSync(this.tokenFile, "utf8").trim()}`);
    return metadata;
  }
}

const deadline = (ms) => ({ deadline: Date.now() + ms });
