import ArgumentParser
import Glibc

/// Loads an NBD server and judges every answer.
@main
struct LoadCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "thermocline-load",
    abstract: "Loads an NBD server through libnbd and judges every answer.",
    subcommands: [ModelCommand.self, KillCommand.self])
}

struct LoadOptions: ParsableArguments {
  @Option(help: "The server's NBD URI.")
  var uri: String
  @Option(help: "What the random choices follow from.")
  var seed: UInt64 = 1
  @Option(help: "Connections.")
  var connections = 8
  @Option(help: "Requests in flight on each.")
  var depth = 64
  @Option(help: "MiB of the volume that are used, spread over all of it.")
  var mebibytes = 256
  @Option(help: "Reads, out of a hundred requests.")
  var reads = 40

  func makeLoad() -> Load {
    var shape = Load.Shape()
    shape.connections = connections
    shape.depth = depth
    shape.readPercent = reads
    return Load(uri: uri, seed: seed, bytes: mebibytes << 20, shape: shape)
  }
}

func say(_ text: String) {
  print(text)
  fflush(nil)
}

/// Prints the complaints; throws the exit status 1 when there are any.
func judge(_ load: Load) throws {
  guard load.oracle.complaintCount > 0 else { return }
  for complaint in load.oracle.complaints { say("WRONG \(complaint)") }
  say("\(load.oracle.complaintCount) wrong answers")
  throw ExitCode(1)
}

struct ModelCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "model",
    abstract: "Random requests on several connections at once, against a model in memory.")

  @OptionGroup var options: LoadOptions
  @Option(help: "How long.")
  var seconds = 10.0

  func run() throws {
    let load = options.makeLoad()
    try load.connect(patience: 5)
    // The volume must be empty: whatever is in it was not written by this run.
    let began = Clock.seconds()
    load.run(seconds: seconds)
    let rate = Double(load.operations) / (Clock.seconds() - began)
    guard load.verify() else { throw LoadError("the server went away") }
    load.close()
    try judge(load)
    say(
      "model: \(load.operations) requests on \(options.connections) connections of depth "
        + "\(options.depth), \(Int(rate)) a second, all answers right")
  }
}
