import Glibc
import Simulator
import VolumeEngine

/// Runs seeds one after the other in this process and says how each ended, in lines that the
/// runner reads: `@begin SEED`, then `@pass SEED` with the counts, or words and `@fail SEED`.
struct Worker {
  /// What the numbers that a worker is given mean.
  enum Kind: String, CaseIterable {
    case seeds
    /// Sequences of `Exhaustive`, from 0.
    case exhaustive
    /// Cases of `Story`, from 0.
    case stories

    /// How many there are; nil: without end.
    var count: Int? {
      switch self {
      case .seeds: nil
      case .exhaustive: Exhaustive.sequences.count
      case .stories: Story.allCases.count
      }
    }
  }

  let planted: PlantedBug?
  let tail: Int
  let kind: Kind
  /// Seconds that one seed may take.
  private static let patience: UInt32 = 120

  func run(first: UInt64, count: Int, stride: UInt64) {
    LastWords.install()
    var seed = first
    for _ in 0..<count {
      say("@begin \(seed)")
      alarm(Worker.patience)
      switch outcome(of: seed) {
      case .success(let r):
        say(
          "@pass \(seed) \(r.requests) \(r.turns) \(r.recoveries) \(r.crashes) "
            + "\(r.recoveryCrashes) \(r.faults) \(r.checks) \(r.checkpoints) \(r.refusals) "
            + "\(r.noSpace) \(r.unreadable)")
      case .failure(let failure):
        print(failure.message)
        say("@fail \(seed)")
      }
      seed &+= stride
    }
    alarm(0)
  }

  private func say(_ line: String) {
    print(line)
    fflush(nil)
  }

  /// One seed in one hundred runs twice: the same things must happen.
  private func outcome(of seed: UInt64) -> Result<World.Report, Failure> {
    switch kind {
    case .exhaustive: return sequence(seed)
    case .stories: return story(seed, isVerbose: false)
    case .seeds: break
    }
    let first = once(seed)
    guard seed % 100 == 0, case .success(let report) = first else { return first }
    guard case .success(let again) = once(seed), again.traceHash == report.traceHash else {
      return .failure(Failure("Two runs of the seed differ: the engine is not deterministic."))
    }
    return first
  }

  private func once(_ seed: UInt64) -> Result<World.Report, Failure> {
    var told: Trace?
    defer { LastWords.watch(nil, limit: 0) }
    do throws(Failure) {
      let world = try World(seed: seed, planted: planted)
      told = world.trace
      LastWords.watch(world.trace, limit: tail)
      return .success(try world.run())
    } catch {
      let lines = told?.tail(tail) ?? []
      return .failure(
        Failure(
          ([Scenario(seed: seed).summary] + lines + [error.message]).joined(separator: "\n")))
    }
  }

  private func sequence(_ number: UInt64) -> Result<World.Report, Failure> {
    guard number < Exhaustive.sequences.count else {
      return .failure(Failure("There are \(Exhaustive.sequences.count) sequences, from 0."))
    }
    var exhaustive = Exhaustive(
      sequence: Exhaustive.sequences[Int(number)], planted: planted)
    do throws(Failure) {
      try exhaustive.run()
    } catch {
      return .failure(error)
    }
    var report = World.Report()
    report.requests = exhaustive.stories
    return .success(report)
  }

  private func story(_ number: UInt64, isVerbose: Bool) -> Result<World.Report, Failure> {
    guard number < Story.allCases.count else {
      return .failure(Failure("There are \(Story.allCases.count) stories, from 0."))
    }
    do throws(Failure) {
      try Story.allCases[Int(number)].tell(planted: planted, isVerbose: isVerbose)
    } catch {
      return .failure(error)
    }
    return .success(World.Report())
  }

  /// Runs a seed with every event printed; true when it passed.
  func replay(_ seed: UInt64) -> Bool {
    if kind != .seeds {
      let outcome = kind == .stories ? story(seed, isVerbose: true) : sequence(seed)
      guard case .failure(let failure) = outcome else { return true }
      print(failure.message)
      return false
    }
    print(Scenario(seed: seed).summary)
    do throws(Failure) {
      let world = try World(seed: seed, planted: planted)
      world.trace.isVerbose = true
      let r = try world.run()
      print(
        "Seed \(seed) passed: \(r.requests) requests, \(r.turns) turns, \(r.crashes) crashes, "
          + "\(r.recoveries) recoveries, \(r.faults) faults.")
      return true
    } catch {
      print(error.message)
      print("Seed \(seed) failed.")
      return false
    }
  }
}
