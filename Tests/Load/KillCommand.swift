import ArgumentParser
import Glibc

/// Starts the server, loads it, kills it at a random moment, starts it again and verifies; the
/// oracle lives here and outlives them all.
///
/// What holds after every death: what was acknowledged is there (C1), what was in flight is there
/// whole or not at all, sector by sector, and nothing else is (C3, C4). What the first read after
/// a recovery found stays so in all later lives (C4).
struct KillCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "kill",
    abstract: "Kills a server at random moments under load and verifies what it remembers.")

  @OptionGroup var options: LoadOptions
  @Option(help: "How many times.")
  var kills = 100
  @Option(help: "The longest life under load, in milliseconds.")
  var longest = 1500
  @Option(help: "Seconds that a start may take.")
  var patience = 30.0
  @Option(help: "Where the server's output goes.")
  var log = "/dev/null"
  @Argument(parsing: .postTerminator, help: "The command that starts the server.")
  var command: [String]

  func run() throws {
    let load = options.makeLoad()
    var slowest = 0.0
    var deathsWhileStarting = 0
    var undecided = 0
    for round in 1...kills {
      let began = Clock.seconds()
      let server = try ServerProcess(command, log: log)
      // One in eight dies while it starts or is first read.
      if load.draw(8) == 0 {
        usleep(useconds_t(load.draw(60_000)))
        server.killAndWait()
        deathsWhileStarting += 1
        continue
      }
      do {
        try load.connect(patience: patience, isServerAlive: { server.isAlive })
      } catch {
        server.killAndWait()
        throw LoadError("life \(round): the server did not come back: \(error)")
      }
      slowest = max(slowest, Clock.seconds() - began)
      try verify(load, server, round)
      let life = Double(load.draw(longest)) / 1000
      let end = Clock.seconds() + life
      var isDead = false
      load.run(seconds: life + 5) {
        if !isDead && Clock.seconds() >= end {
          server.killAndWait()
          isDead = true
        }
        return true
      }
      if !isDead {
        server.killAndWait()
        load.disconnect()
        throw LoadError("life \(round): the server ended, or dropped a connection, by itself")
      }
      undecided += load.oracle.openCount
      if round % 10 == 0 {
        say("\(round) kills, \(load.acknowledgedWrites) writes acknowledged, seed \(options.seed)")
      }
    }
    try finish(load)
    say(
      "kill: \(kills) kills (\(deathsWhileStarting) while starting), \(load.operations) requests, "
        + "\(load.acknowledgedWrites) writes acknowledged and found, \(undecided) sectors were in "
        + "flight, slowest start \(Int(slowest * 1000)) ms")
  }

  private func verify(_ load: Load, _ server: ServerProcess, _ round: Int) throws {
    guard load.verify() else {
      server.killAndWait()
      throw LoadError("life \(round): the server ended, or dropped a connection, while it was read")
    }
    if load.oracle.complaintCount > 0 { say("life \(round), seed \(options.seed):") }
    do {
      try judge(load)
    } catch {
      server.killAndWait()
      throw error
    }
  }

  /// The last life ends in order; what it leaves is verified once more.
  private func finish(_ load: Load) throws {
    for last in [false, true] {
      let server = try ServerProcess(command, log: log)
      do {
        try load.connect(patience: patience, isServerAlive: { server.isAlive })
      } catch {
        server.killAndWait()
        throw LoadError("the server did not come back: \(error)")
      }
      try verify(load, server, kills + (last ? 2 : 1))
      if !last {
        load.run(seconds: 0.5)
        try judge(load)
      }
      load.close()
      guard server.stop(seconds: 60) else {
        throw LoadError("the server did not stop in order on SIGTERM")
      }
    }
  }
}
