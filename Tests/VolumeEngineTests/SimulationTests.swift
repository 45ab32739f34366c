import Simulator
import Testing

/// A handful of seeds of the simulator; `thermocline-simulate` runs thousands.
@Suite struct SimulationTests {
  @Test(arguments: 1...12 as ClosedRange<UInt64>)
  func seedPasses(_ seed: UInt64) throws {
    let world = try World(seed: seed)
    do throws(Failure) {
      let report = try world.run()
      // A pool that lost both superblock copies is refused; every other opens.
      #expect(report.recoveries + report.refusals > 0)
    } catch {
      let tail = world.trace.tail(40).joined(separator: "\n")
      Issue.record("\(Scenario(seed: seed).summary)\n\(tail)\n\(error.message)")
    }
  }

  @Test(arguments: Story.allCases)
  func storyEndsWell(_ story: Story) throws {
    do throws(Failure) {
      try story.tell(planted: nil)
    } catch {
      Issue.record("\(error.message)")
    }
  }

  @Test func sameSeedTellsTheSameStory() throws {
    let first = try World(seed: 77).run()
    let second = try World(seed: 77).run()
    #expect(first.traceHash == second.traceHash)
  }
}
