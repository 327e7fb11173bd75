

def test_a_gain_that_so_many_prompts_detect_is_one_that_needs_so_many() -> None:
    assert prompts_needed(0.6, detectable(0.6, 40)) == pytest.approx(40)
