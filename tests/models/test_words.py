"""What counts as a word, in every script."""

import pytest

from models.data.decontaminate import Benchmark
from models.data.dedupe import Nearness, first_near
from models.data.words import words

# ruff: noqa: E501
TEXTS = {  # a sentence of some twenty words in scripts without blanks, and in two that have them
    "zh": "河边的老磨坊主每天早晨都要先检查水车的木轮，然后把昨天收来的麦子倒进石磨，等到中午才有时间坐下来喝一碗热茶。",
    "ja": "川沿いの古い水車小屋の主人は毎朝まず木の車輪を調べてから、前の日に集めた麦を石臼に入れ、昼になってやっと座ってお茶を飲みます。",
    "th": "เจ้าของโรงสีเก่าริมแม่น้ำตรวจดูกังหันไม้ทุกเช้าแล้วจึงเทข้าวสาลีที่เก็บมาเมื่อวานลงในโม่หินและกว่าจะได้นั่งดื่มชาก็เที่ยงวัน",
    "km": "ម្ចាស់ម៉ាស៊ីនកិនចាស់នៅមាត់ទន្លេពិនិត្យមើលកង់ឈើរៀងរាល់ព្រឹកហើយចាក់ស្រូវដែលប្រមូលបានពីម្សិលមិញទៅក្នុងត្បាល់ថ្ម",
    "ko": "강가의 오래된 방앗간 주인은 매일 아침 먼저 나무 바퀴를 살펴본 다음 전날 거둔 밀을 맷돌에 붓고 점심때가 되어서야 앉아서 차를 마신다",
    "en": "The old miller by the river looks at the wooden wheel every morning and then pours the wheat of the day before into the stones.",
}
OTHER = {
    "zh": "城里的新图书馆上个月开放，学生们可以在三楼的大厅里自习到晚上十点，周末还会举办关于天文和历史的免费讲座。",
    "ja": "町の新しい図書館は先月開館し、学生は三階の広間で夜十時まで勉強でき、週末には天文や歴史についての無料の講座も開かれます。",
    "th": "ห้องสมุดใหม่ในเมืองเปิดเมื่อเดือนที่แล้วนักเรียนอ่านหนังสือในห้องโถงชั้นสามได้ถึงสี่ทุ่มและวันหยุดมีการบรรยายเรื่องดาราศาสตร์",
    "km": "បណ្ណាល័យថ្មីក្នុងទីក្រុងបានបើកកាលពីខែមុនសិស្សអាចរៀននៅជាន់ទីបីរហូតដល់ម៉ោងដប់យប់ហើយចុងសប្ដាហ៍មានបាឋកថាអំពីតារាសាស្ត្រ",
    "ko": "도시의 새 도서관은 지난달 문을 열었고 학생들은 삼 층 홀에서 밤 열 시까지 공부할 수 있으며 주말에는 천문학 강연도 열린다",
    "en": "The new library in town opened last month, and students may read in the hall on the third floor until ten at night.",
}


@pytest.mark.parametrize("language", TEXTS)
def test_a_benchmark_item_is_found_in_a_longer_text_of_its_language_and_not_in_another(language):
    benchmark = Benchmark([("suite/0", TEXTS[language])], 10, 4)
    assert benchmark.hits([OTHER[language] + TEXTS[language] + OTHER[language]]) == {"suite/0"}
    assert benchmark.hits([OTHER[language]]) == set()


@pytest.mark.parametrize("language", TEXTS)
def test_nearly_the_same_text_is_a_near_duplicate_in_every_language(language):
    text = TEXTS[language] + OTHER[language]
    records = [[("text", text)], [("text", text + "!")], [("text", OTHER[language] * 2)]]
    assert first_near(records, Nearness(3, 12, 0.85)) == {1: 0}


def test_letters_count_halves_and_quarters_of_words_where_no_blank_parts_them():
    assert words("ten words of english").count == 4
    assert words("漢字四個").count == 2
    assert words("ภาษาไทย").count == 2  # five letters with their marks
    assert words("GPU 漢字").count == 2
