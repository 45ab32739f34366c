import NBDProtocol
import Testing

@Suite struct HandshakeContextsTests {
  private func names(_ outcome: Outcome) -> [String] {
    outcome.answers.filter { $0.type == 4 }
      .map { String(decoding: $0.data[4...], as: UTF8.self) }
  }

  private func set(
    _ queries: [String], for name: String = "", go: String = "", style: UInt32 = 8
  ) -> Outcome {
    drive(Bytes().flags().option(style).contexts(10, name, queries).go(go).all)
  }

  @Test func setBeforeChunksIsInvalid() {
    let outcome = drive(Bytes().flags().contexts(10, "", ["base:allocation"]).go().all)
    #expect(outcome.types.first == 0x8000_0003)
    #expect(outcome.session?.selection.count == 0)
  }

  @Test func setSelects() {
    let outcome = set(["x-thermocline:tier", "unknown:thing", "base:allocation"])
    #expect(names(outcome) == ["x-thermocline:tier", "base:allocation"])
    let session = outcome.session!
    #expect(session.selection.count == 2)
    #expect(session.contextIDs[0] == 3 && session.contextIDs[1] == 1)
  }

  @Test func askedTwiceSelectedOnce() {
    let outcome = set(["base:allocation", "base:allocation"])
    #expect(names(outcome) == ["base:allocation"])
    #expect(outcome.session?.selection.count == 1)
  }

  @Test func wildcardsSelectNothing() {
    let outcome = set(["base:", "qemu:", "qemu:dirty-bitmap:", "base", "", ":"])
    #expect(names(outcome).isEmpty)
    #expect(outcome.types[1] == 1)
    #expect(set([]).types[1] == 1)
  }

  @Test func listKnowsWildcards() {
    func list(_ queries: [String], _ style: UInt32 = 8) -> [String] {
      names(drive(Bytes().flags().option(style).contexts(9, "vol", queries).all))
    }
    let dirty = ["qemu:dirty-bitmap:monday", "qemu:dirty-bitmap:tuesday"]
    #expect(list(["qemu:dirty-bitmap:"]) == dirty)
    #expect(list(["qemu:"]) == ["qemu:allocation-depth"] + dirty)
    #expect(list(["base:"]) == ["base:allocation"])
    #expect(list(["base:", "base:allocation"]) == ["base:allocation"])
    #expect(list(["base"]) == [] && list([""]) == [])
    #expect(list([]).count == 5)
    #expect(list([], 11).count == 6)
  }

  @Test func wideContextsNeedExtendedHeaders() {
    #expect(names(set(["x-wide:all"], style: 8)).isEmpty)
    #expect(names(set(["x-wide:all"], style: 11)) == ["x-wide:all"])
  }

  @Test func countsForTheSameNameOnly() {
    #expect(set(["base:allocation"], for: "vol", go: "vol").session?.selection.count == 1)
    #expect(set(["base:allocation"], for: "vol", go: "").session?.selection.count == 0)
    #expect(set(["base:allocation"], for: "", go: "vol").session?.selection.count == 0)
    let unknown = set(["base:allocation"], for: "other")
    #expect(unknown.types[1] == 0x8000_0006)
  }

  @Test func setReplacesEvenWhenItFails() {
    let good = Bytes().flags().option(8).contexts(10, "", ["base:allocation"])
    let bad: [Bytes] = [
      good.contexts(10, "other", ["base:allocation"]),
      good.option(10, Bytes().u32(.max)),
      good.contexts(10, "", []),
      good.contexts(10, "", [String](repeating: "base:allocation", count: 65)),
    ]
    #expect(drive(good.go().all).session?.selection.count == 1)
    for stream in bad { #expect(drive(stream.go().all).session?.selection.count == 0) }
  }

  @Test func malformedIsInvalid() {
    let head = Bytes().string("vol")
    let query = Bytes().string("base:allocation").all
    let bad: [Bytes] = [
      Bytes(), Bytes().u32(9).text("vol"), head, head.u32(1), head.u32(1).u32(99).text("base:"),
      head.u32(.max), head.u32(1).raw(query).raw([0]), head.u32(0).u32(0),
      head.u32(1).string("base:\0"), head.u32(1).u32(1).raw([0xff]),
      head.u32(1).string("x:" + String(repeating: "y", count: 4095)),
    ]
    for data in bad {
      for type: UInt32 in [9, 10] {
        let outcome = drive(Bytes().flags().option(8).option(type, data).go().all)
        #expect(outcome.types[1] == 0x8000_0003)
        #expect(outcome.session?.selection.count == 0)
      }
    }
  }

  /// The form comes before what is asked for: an export that is not there, too many queries.
  @Test(arguments: [9, 10] as [UInt32]) func formIsJudgedFirst(option: UInt32) {
    let name = Bytes().u32(4).raw(Array("nope".utf8))
    let cut = name.u32(1).u32(100)
    let more = name.u32(0).u32(0)
    let many = Bytes().u32(0).u32(1000).u32(0)
    for data in [cut, more, many] {
      let outcome = drive(Bytes().flags().option(8).option(option, data).all)
      #expect(outcome.types == [1, 0x8000_0003])
    }
    let whole = drive(Bytes().flags().option(8).option(option, name.u32(1).u32(0)).all)
    #expect(whole.types == [1, 0x8000_0006])
  }

  @Test func queriesAndContextsAreLimited() {
    let many = [String](repeating: "base:allocation", count: 64)
    #expect(set(many).session?.selection.count == 1)
    #expect(set(many + ["base:"]).types[1] == 0x8000_0009)
    var offer = Offer.example
    offer.export.contexts = (0..<40).map { MetaContext(id: $0 + 16, name: "x-many:\($0)") }
    func select(_ count: Int) -> Outcome {
      let queries = (0..<count).map { "x-many:\($0)" }
      return drive(Bytes().flags().option(8).contexts(10, "", queries).go().all, offer)
    }
    #expect(select(16).session?.selection.count == 16)
    #expect(select(17).types[1] == 0x8000_0009)
    #expect(select(17).session?.selection.count == 0)
  }

  @Test func tooLongARepliesIsTooBig() {
    var offer = Offer.example
    offer.export.contexts = (0..<8).map {
      MetaContext(id: $0 + 16, name: "x-long:" + String(repeating: "\($0)", count: 4000))
    }
    let outcome = drive(Bytes().flags().option(8).contexts(9, "", []).go().all, offer)
    #expect(outcome.types == [1, 0x8000_0009, 3, 3, 3, 3, 1])
  }
}
