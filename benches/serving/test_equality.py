"""Tests of how differing texts are judged."""

import unittest

from equality import _gap


class Gaps(unittest.TestCase):
    def test_a_near_tie_is_found_where_the_texts_part(self) -> None:
        reply = [("a", {"a": -0.1, "b": -3.0}), ("b", {"b": -0.70, "c": -0.71}), ("d", {"d": -0.2})]
        self.assertAlmostEqual(_gap(reply, "ac and so on"), 0.01)

    def test_a_token_that_is_not_among_the_likeliest_is_no_near_tie(self) -> None:
        self.assertIsNone(_gap([("a", {"a": -0.1, "b": -3.0})], "z"))

    def test_a_token_that_the_other_text_begins_with_only_in_part_does_not_count(self) -> None:
        self.assertIsNone(_gap([("a", {"a": -0.1, "bread": -0.1})], "brick"))

    def test_of_two_tokens_that_fit_the_likelier_counts(self) -> None:
        self.assertAlmostEqual(_gap([("a", {"a": -0.1, "b": -5.0, "br": -0.2})], "bread"), 0.1)

    def test_a_text_that_comes_out_alike_now_is_a_tie(self) -> None:
        self.assertEqual(_gap([("a", {"a": -0.1}), ("b", {"b": -0.1})], "ab"), 0.0)


if __name__ == "__main__":
    unittest.main()
